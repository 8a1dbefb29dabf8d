"""Messages from the guard itself into a pipe that a host thread reads.

Everything a pool answers comes out of one pipe and is handled by one thread.
The guard's own answers take the same way, so that a result that was sent
before is always handled before, and nothing has to be locked.

Any thread may post. Posting never blocks: what the pipe has no room for waits
here, and the watchdog tries again. The watchdog also writes what the main
thread posts: a signal handler may raise there, or post itself, in the middle of
a write that must come to its end.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections import deque
from typing import Any, Final

from .. import clock
from .waiting import poll
from .watchdog import watchdog

#: Seconds until the next try when the pipe is full (its reader is busy, maybe
#: in a user's callback).
_RETRY: Final = 0.01


class Mailbox:
    """Writes framed messages of at most PIPE_BUF bytes to a `multiprocessing` pipe.

    Parameters
    ----------
    connection : multiprocessing.connection.Connection
        The writing end. Its file description is shared with forked workers, so
        it must stay in blocking mode; where possible it is opened once more,
        without blocking.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._waiting: deque[bytes] = deque()
        # Re-entrant, for the main thread, which may be interrupted in `close`.
        self._lock = threading.RLock()
        self._closed = False
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(f"/proc/self/fd/{connection.fileno()}", flags)
        except (OSError, AttributeError):
            self._fd = -1

    def post(self, message: bytes) -> None:
        """Write a message, now or as soon as there is room for it."""
        self._waiting.append(struct.pack("!i", len(message)) + message)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not in_main_thread or not watchdog().schedule(self, clock.now()):
            self.on_deadline()

    def on_deadline(self) -> None:
        """Write what is waiting, as far as there is room. Watchdog's thread, or `post`."""
        with self._lock:
            while self._waiting and not self._closed:
                if not self._write(self._waiting[0]):
                    watchdog().schedule(self, clock.now() + _RETRY)
                    return
                self._waiting.popleft()

    def _write(self, frame: bytes) -> bool:
        try:
            if self._fd >= 0:
                os.write(self._fd, frame)
                return True
            room = poll()
            room.register(self._connection.fileno(), select.POLLOUT)
            if not room.poll(0):
                return False
            self._connection.send_bytes(frame[4:])
            return True
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            # The pipe is closed: nobody is left to be told.
            self._closed = True
            return False

    def on_exits(self, tokens: list[Any]) -> None:
        """Watch nothing."""

    def on_failure(self, error: BaseException) -> None:
        """Keep what is waiting for the next post."""

    def disown(self) -> None:
        """Write nothing any more, in a process that was forked; the lock may be another thread's."""
        self._closed = True
        self._lock = threading.RLock()

    def close(self) -> None:
        """Drop what is waiting and release the descriptor."""
        with self._lock:
            self._closed = True
            self._connection = None
            self._waiting.clear()
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
        watchdog().forget(self)
