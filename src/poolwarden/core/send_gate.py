"""The gate through which tasks leave for the workers.

Task threads of hosts go through it one at a time, and none while the pool is
repaired: the repair shuts the gate, and then empties the task pipe until
whoever is inside, blocked on a full pipe perhaps, has come out. Its lock is one
of this process's threads; no worker ever holds it.

The threads of users take no lock. A signal handler may raise between any two
bytecodes of theirs, or call the pool from there: a lock would stay taken, or be
waited for by the thread that holds it. They *offer* a message, and then take
the offer and write it in one call of C code, which no handler interrupts.
Whoever else takes the offer before has it sent the other way; what an
interrupted thread has left behind is so found, and sent, by the next.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections import deque
from collections.abc import Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from .. import clock
from ..system.interruption import make_event

if TYPE_CHECKING:
    from .tickets import Ticket

#: What is found in the place of an offer that somebody has taken: no bytes to write.
_TAKEN: Final = (0, None, b"")
#: Seconds for another thread to come out of a write that has begun; it does not wait there.
WRITE_BOUND: Final = 1.0
_message_of: Final = itemgetter(2)


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
        self._opened = make_event()
        # By ticket: the thread that offers, the ticket, its message.
        self._offers: dict[int, tuple[int, Any, bytes]] = {}
        self._recalled: deque[tuple[int, Any, bytes] | None] = deque()
        self._writing: dict[int, Ticket] = {}
        self._alone = False

    @property
    def busy(self) -> bool:
        """Whether somebody may be writing a message."""
        return self._inside.locked() or (bool(self._writing) and self._is_any_written())

    def _is_any_written(self) -> bool:
        waiting = {number for number, _, _ in list(self.again)}
        for number, ticket in list(self._writing.items()):
            if ticket.sent:
                self._writing.pop(number, None)
            elif ticket.written is not None and number not in self._offers and number not in waiting:
                return True
        return False

    def enter(self) -> None:
        """Wait until the gate is open and nobody is inside. Never in a thread of the user's."""
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

    def write(self, ticket: Ticket, descriptor: int, message: bytes, *, has_room: bool) -> bool:
        """Write a ticket's message; False if it is to be sent another way, by who calls `next_again`.

        Any thread, at any moment. At most PIPE_BUF bytes, into a pipe that has
        room for them: written as a whole, and without waiting.

        Raises
        ------
        OSError
            The pipe is closed.
        """
        number = ticket.number
        written: list[int] = []
        self._offers[number] = (threading.get_ident(), ticket, message)
        ticket.written = written
        self._writing[number] = ticket
        # Behind the offer: who shuts the gate looks for offers after that.
        if self._shut or self._alone or self.again or self._recalled or not has_room:
            self.recall()
        taken = map(self._offers.pop, (number,), (_TAKEN,))
        try:
            # One call: no handler comes between taking the offer, writing, and noting that it was written.
            written.extend(map(os.write, (descriptor,), map(_message_of, taken)))
        finally:
            self._writing.pop(number, None)
        return bool(written[0])

    def begin_long(self) -> None:
        """Have nobody else write: a message that is longer than PIPE_BUF comes. Inside."""
        self._alone = True
        self.recall()
        deadline = clock.now() + WRITE_BOUND
        while self._is_any_written() and clock.now() < deadline:
            clock.sleep(0.0005)

    def end_long(self) -> None:
        """Let others write."""
        self._alone = False

    def has_left_behind(self) -> bool:
        """Take back what the calling thread has offered and was kept from writing; return whether it had."""
        me = threading.get_ident()
        return bool(self._offers) and self.recall(me)

    def recall(self, thread: int | None = None) -> bool:
        """Take back what one thread or all have offered and not written; return whether there was any."""
        numbers = [
            number for number, offer in list(self._offers.items()) if thread is None or offer[0] == thread
        ]
        # One call: no handler comes between here and there.
        self._recalled.extend(map(self._offers.pop, numbers, itertools.repeat(None)))
        return bool(numbers)

    def shut(self) -> None:
        """Let nobody enter; somebody may still be inside."""
        self._opened.clear()
        self._shut = True
        self.recall()
        self._collect()

    def open(self) -> None:
        """Let writers pass."""
        self._shut = False
        self._opened.set()

    def send_again(self, tickets: Iterable[Ticket]) -> None:
        """Put tickets before new ones, oldest first. Any thread but a user's."""
        for ticket in tickets:
            ticket.sent = False
            # In C, comparing integers only: no other thread comes between.
            heapq.heappush(self.again, (ticket.number, next(self._order), ticket))

    def next_again(self) -> Ticket | None:
        """Return the next ticket to be sent again, None if there is none."""
        self._collect()
        try:
            return heapq.heappop(self.again)[-1]
        except IndexError:
            return None

    def _collect(self) -> None:
        while self._recalled:
            try:
                offer = self._recalled.popleft()
            except IndexError:
                # Another thread came first.
                return
            if offer is not None:
                self.send_again((offer[1],))
                self._writing.pop(offer[1].number, None)
