"""The gate through which tasks leave for the workers.

While a pool is repaired no message may be written to its task pipe, and the
repair has to know when the writing thread is not in the middle of one. The
writer cannot hold a lock around a write that it does not do itself (the host
does), so it leaves a trace instead.

Used by one writing thread, and by whoever repairs the pool.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tickets import Ticket


class Gate:
    """Lets the writer pass, or keeps it waiting; holds what is to be sent again.

    Attributes
    ----------
    busy : bool
        True while the writer may be writing a message.
    again : deque of Ticket
        Tickets that go before new ones.
    """

    def __init__(self) -> None:
        self.busy = False
        self.again: deque[Ticket] = deque()
        self._shut = False
        self._opened = threading.Event()

    def enter(self) -> None:
        """Wait until the gate is open and be busy from then on. Writer only."""
        while True:
            # Busy first, then the look: a repair that shuts the gate and then
            # finds nobody busy can be sure that nobody has slipped through.
            self.busy = True
            if not self._shut:
                return
            self.busy = False
            self._opened.wait(1.0)

    def leave(self) -> None:
        """Nothing is being written any more. Writer only."""
        self.busy = False

    def shut(self) -> None:
        """Keep the writer from entering; it may still be busy."""
        self._opened.clear()
        self._shut = True

    def open(self) -> None:
        """Let the writer pass."""
        self._shut = False
        self._opened.set()

    def send_again(self, tickets: Iterable[Ticket]) -> None:
        """Put tickets before new ones, oldest first. Any thread."""
        for ticket in sorted(tickets, key=lambda ticket: ticket.number):
            ticket.sent = False
            self.again.append(ticket)

    def next_again(self) -> Ticket | None:
        """Return the next ticket to be sent again, None if there is none. Writer only."""
        try:
            return self.again.popleft()
        except IndexError:
            return None
