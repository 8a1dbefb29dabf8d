"""The pipe from a pool to its workers, and messages as `multiprocessing` frames them.

Covers which messages are short enough to be written as a whole, and which calls
are surely pickled to such a message without a line of the user's code.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from types import FunctionType
from typing import Any, Final

from ...core.send_gate import Gate
from ...system.waiting import poll

#: Bytes of a message that is surely written as a whole; PIPE_BUF of Linux is 4096.
SHORT: Final = 4000
#: Types of arguments whose pickling runs no code of the user's.
_PLAIN: Final = frozenset((type(None), bool, int, float, complex, str, bytes))
_SIZED: Final = frozenset((str, bytes))
#: Characters and bytes of all such arguments.
_TEXT_MAX: Final = 800


class TaskPipe:
    """The writing end of a pool's task pipe.

    Attributes
    ----------
    connection : multiprocessing.connection.Connection
        The host's object for that end.
    gate : Gate
        What every writer of tasks passes.
    """

    def __init__(self, connection: Any, gate: Gate) -> None:
        self.connection = connection
        self.gate = gate
        # One for each thread: two may ask at once.
        self._rooms = threading.local()

    def has_room(self) -> bool:
        """Return whether the pipe takes a short message now. Any thread."""
        room = getattr(self._rooms, "poll", None)
        if room is None:
            room = poll()
            room.register(self.connection.fileno(), select.POLLOUT)
            self._rooms.poll = room
        return bool(room.poll(0))

    def write(self, message: bytes) -> None:
        """Write a message of any length; inside the gate. Task thread."""
        if len(message) < SHORT:
            write_message(self.connection, message)
            return
        try:
            self.gate.begin_long()
            write_message(self.connection, message)
        finally:
            self.gate.end_long()


def write_message(connection: Any, message: bytes) -> None:
    """Write one message as `multiprocessing` frames it; atomic below PIPE_BUF.

    ``Connection.send_bytes`` does the same with checks that cost more than the
    write, and on Windows more than that.
    """
    if os.name == "posix" and len(message) < SHORT:
        os.write(connection.fileno(), framed(message))
    else:
        connection.send_bytes(message)


def framed(message: bytes) -> bytes:
    """Return a message with its length before it."""
    return struct.pack("!i", len(message)) + message


def is_plain(func: Any, args: Any, kwds: Any) -> bool:
    """Return whether pickling a call runs no code of the user's, and gives no more than a short message."""
    if type(func) is not FunctionType or type(args) is not tuple or type(kwds) is not dict:
        return False
    values = (*args, *kwds.values()) if kwds else args
    kinds = set(map(type, values))
    if not kinds <= _PLAIN:
        return False
    return kinds.isdisjoint(_SIZED) or sum(len(each) for each in values if type(each) in _SIZED) < _TEXT_MAX
