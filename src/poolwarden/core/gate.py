"""The gate through which tasks leave for the workers.

One writer at a time, and none while the pool is repaired: the repair shuts the
gate, and then empties the task pipe until whoever is inside, blocked on a full
pipe perhaps, has come out.

The lock is one of this process's threads; no worker ever holds it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tickets import Ticket


class Gate:
    """Lets one writer pass, or keeps all waiting; holds what is to be sent again.

    Attributes
    ----------
    again : list
        Tickets that go before new ones, as a heap: the oldest of all goes first.
        Behind those that another repair has put there, it waited as long as
        workers were killed.
    """

    def __init__(self) -> None:
        self.again: list[tuple[int, int, Ticket]] = []
        self._order = itertools.count()
        self._inside = threading.Lock()
        self._shut = False
        self._opened = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether somebody may be writing a message."""
        return self._inside.locked()

    def enter(self) -> None:
        """Wait until the gate is open and nobody is inside."""
        while True:
            self._inside.acquire()
            # Looked at inside: a repair that shuts the gate and then finds
            # nobody in it can be sure that nobody slips through.
            if not self._shut:
                return
            self._inside.release()
            self._opened.wait(1.0)

    def try_enter(self) -> bool:
        """Enter if that takes no waiting, and nothing waits to be sent again."""
        if self.again or not self._inside.acquire(blocking=False):
            return False
        if self._shut:
            self._inside.release()
            return False
        return True

    def leave(self) -> None:
        """Come out: nothing is being written any more."""
        self._inside.release()

    def shut(self) -> None:
        """Let nobody enter; somebody may still be inside."""
        self._opened.clear()
        self._shut = True

    def open(self) -> None:
        """Let writers pass."""
        self._shut = False
        self._opened.set()

    def send_again(self, tickets: Iterable[Ticket]) -> None:
        """Put tickets before new ones, oldest first. Any thread."""
        for ticket in tickets:
            ticket.sent = False
            # In C, comparing integers only: no other thread comes between.
            heapq.heappush(self.again, (ticket.number, next(self._order), ticket))

    def next_again(self) -> Ticket | None:
        """Return the next ticket to be sent again, None if there is none."""
        try:
            return heapq.heappop(self.again)[-1]
        except IndexError:
            return None
