"""The tasks of one guarded pool that have left for its workers.

Covers what is known of each task, and the rule that it is answered once.
Runs in the parent: tickets are issued in the thread that feeds the host's
queue, declared lost in the watchdog's thread, and settled in the host's result
thread. Taking a ticket out of the table is what decides who answers.
"""

from __future__ import annotations

import itertools
import threading
from types import FunctionType
from typing import Any, Final

from ..policy import Policy, overrides_of
from ..system.interruption import is_interruption, make_event
from ..worker import envelope, payload
from ..worker.ledger import INLINE_MAX
from ..worker.memory import CALLED_OFF
from ..worker.results import kept_results
from .codec import Codec
from .outcomes import decode, in_its_place
from .pool_memory import PoolMemory
from .task_names import name_of
from .ticket import Ticket

__all__ = ["VERDICT", "Ticket", "Tickets"]

#: A kind of outcome next to those of `worker.envelope`: the parent's own.
VERDICT: Final = 0x80

#: Bytes from which on a call counts as heavy, and how many bytes of such calls may be on their way
#: without holding up more.
HEAVY_CALL: Final = 1 << 16
HEAVY: Final = 32 << 20

#: In the pickle of a descriptor, of a connection or a socket, and of a tensor of
#: torch: whoever unpickles it fetches the descriptor, and only the first can.
HANDED_OVER: Final = b".resource_sharer"


class Tickets:
    """The open tickets of one pool."""

    def __init__(self, memory: PoolMemory, adapter: Codec) -> None:
        self.open: dict[int, Ticket] = {}
        # By cell of the memory, the task that was called off there last.
        self._called_off: dict[int, int] = {}
        self._memory = memory
        self._calls = payload.Reader(memory.main.memory, adapter.loads)
        self._adapter = adapter
        self._numbers = itertools.count(1)
        # Set when it may be less.
        self.relief = make_event()
        # Re-entrant: a signal handler may come to submit while it is held.
        self._weighing = threading.RLock()
        self._heavy_calls = self._bytes = 0
        # Outcomes that come in pieces, through the host's pipe.
        self._pieces: dict[int, bytearray] = {}
        # Replaced by None once a worker has told that it cannot read it.
        self._room: payload.Room | None = memory.calls

    def issue(
        self,
        key: Any,
        func: Any,
        call: Any,
        policy: Policy,
        *,
        flags: int = 0,
        base: int | None = None,
        is_plain: bool = False,
    ) -> Ticket:
        """Pickle a call and return its open ticket.

        Parameters
        ----------
        key
            The host's handle.
        func : callable or tuple
            The user's function, for its name and its `limits`; a tuple has one
            for each item of a batch.
        call : tuple
            ``(func, args, kwds)``; ``(func, items)`` with the CHUNK flag; or a
            batch, with the BATCH flag as well.
        flags : int
            CHUNK, STAR and BATCH of `worker.envelope`; the others are added
            here.
        base : int, optional
            Index of the (first) item.
        is_plain : bool
            Whether pickling it runs no code of the user's, in the main thread:
            what a signal handler raises meanwhile is the caller's, and the ticket
            is open only when `enter` is called, as late as may be: nobody answers
            a ticket whose caller was interrupted. It takes no room in the memory.

        Returns
        -------
        Ticket
            With a verdict already if the call cannot be pickled.
        """
        if type(func) is tuple:
            ticket = Ticket(next(self._numbers), key, tuple(map(_kept, func)), policy, base, flags)
            ticket.policies = tuple(_limited(policy, each) for each in func)
        else:
            policy = _limited(policy, func)
            ticket = Ticket(next(self._numbers), key, _kept(func), policy, base, flags)
        ticket.flags |= envelope.ASK
        if flags & envelope.CHUNK:
            ticket.count = len(call if flags & envelope.BATCH else call[1])
            if policy.losses != "raise" or any(each.retries for each in ticket.policies or (policy,)):
                ticket.flags |= envelope.KEEP
            if ticket.timeout is not None:
                ticket.flags |= envelope.TIMED
        try:
            room = None if is_plain else self._room
            where, ticket.data = self._adapter.dumper.dump(call, room, ticket.number)
            ticket.flags |= where
            self._weigh(ticket, 1)
        except BaseException as error:
            if not isinstance(error, Exception) or (is_plain and is_interruption(error)):
                raise
            ticket.verdict = error
        if not is_plain:
            self.enter(ticket)
        return ticket

    def enter(self, ticket: Ticket) -> None:
        """Have a ticket open: from now on it has to be answered."""
        self.open[ticket.number] = ticket

    def settle(self, number: int, kind: int, data: bytes) -> tuple[Ticket, bool, Any] | None:
        """Close a ticket; return it and what its caller gets, None if it is closed already.

        Called only from the host's result thread.
        """
        ticket = self.open.pop(number, None)
        if ticket is None:
            self._forget_outcome(number, kind, data)
            return None
        if kind != VERDICT:
            ok, value = decode(ticket, kind, data, self, self._adapter)
        else:
            ok, value = False, ticket.verdict
            # A chunk's holes are filled when its parts are put together.
            if ticket.base is not None and not ticket.flags & envelope.CHUNK and ticket.verdict is not None:
                ok, value = in_its_place(ticket.policy.losses, ticket.verdict)
        self._forget_outcome(number, kind, data)
        self._free_call(ticket)
        return ticket, ok, value

    def disown(self) -> None:
        """Answer nothing any more, and leave the payloads alone: this process was forked."""
        self.open = {}
        self._memory.calls.disown()

    def issued(self) -> int:
        """Return how many tickets there have been; for the end of the pool, as it takes a number."""
        return next(self._numbers) - 1

    def load(self, kind: int, data: bytes, number: int) -> Any:
        """Unpickle what an outcome holds. Result thread.

        Raises
        ------
        MismatchError, LookupError
            It is not there.
        BaseException
            Whatever unpickling it raises.
        """
        if kind & payload.PIECES:
            whole = bytes(self._pieces.get(number, b""))
            if len(whole) != int.from_bytes(data, "little"):
                raise payload.MismatchError(f"{len(whole)} bytes of task {number} have arrived")
            return self._adapter.loads(whole)
        if kind & payload.MEMORY:
            return payload.load(self._memory.memory_of(data), data, number, self._adapter.loads)
        return self._adapter.loads(data)

    def add_kept(self, ticket: Ticket, place: bytes) -> None:
        """Take over the results of a chunk's items that lie in its worker's ring. Result thread."""
        if place:
            start, size = payload.PLACE.unpack_from(place)
            found = kept_results(self._memory.memory_of(place), start, size)
            ticket.kept = {**ticket.kept, **found}
            self._memory.note_read(place)

    def add_piece(self, number: int, data: bytes) -> None:
        """Take in the next part of an outcome. Result thread."""
        if number in self.open:
            self._pieces.setdefault(number, bytearray()).extend(data)

    def add_kept_piece(self, number: int, item: int, data: bytes) -> None:
        """Take in the next part of an item's result; the last is shorter than the others. Result thread."""
        ticket = self.open.get(number)
        if ticket is None:
            return
        whole = ticket.unfinished + data
        if len(data) == INLINE_MAX:
            ticket.unfinished = whole
        else:
            ticket.unfinished = b""
            ticket.kept = {**ticket.kept, item: whole}

    def _forget_outcome(self, number: int, kind: int, data: bytes) -> None:
        self._pieces.pop(number, None)
        in_ring = kind & payload.MEMORY or (kind == envelope.PARTS and data)
        if kind != VERDICT and in_ring:
            self._memory.note_read(data)

    def _free_call(self, ticket: Ticket) -> None:
        self._weigh(ticket, -1)
        if ticket.flags & payload.MEMORY:
            self._memory.calls.free(ticket.data)

    def send_inline(self, number: int) -> Ticket | None:
        """Have a call, and all that follow, travel in its message: a worker has no way to the pool's memory.

        Returns the ticket, which is to be sent again; None if it is closed.
        """
        self._room = None
        ticket = self.open.get(number)
        if ticket is not None and ticket.flags & payload.MEMORY:
            place = ticket.data
            ticket.data = self._calls.read(ticket.flags, place, number)
            ticket.flags &= ~payload.MEMORY
            self._memory.calls.free(place)
        return ticket

    def call_off(self, ticket: Ticket) -> bool:
        """Have a worker that takes the task later not begin it; False if that cannot be."""
        number = ticket.number
        held = self._called_off.setdefault(number % CALLED_OFF, number)
        if held != number and held in self.open:
            # Its cell is in use: it begins, and is stopped.
            return False
        self._called_off[number % CALLED_OFF] = number
        try:
            self._memory.main.memory.call_off(number)
        except ValueError:
            # Another thread has ended the pool since.
            return False
        return True

    def _weigh(self, ticket: Ticket, sign: int) -> None:
        size = len(ticket.data)
        if ticket.flags & payload.MEMORY:
            size = payload.PLACE.unpack(ticket.data)[1]
        if size > HEAVY_CALL:
            with self._weighing:
                self._heavy_calls += sign
                self._bytes += sign * size
            self.relief.set()

    @property
    def heavy(self) -> int:
        """How many heavy calls are on their way, if those take so much room that few should be added; else 0.

        The host's pipe holds 64 kB, and that is what keeps its feeding thread
        from pickling a whole iterable of large items at once. A message that
        only says where its payload lies takes hardly any room there.
        """
        return self._heavy_calls if self._bytes > HEAVY else 0

    def host_failure(self, number: int, error: BaseException) -> tuple[int, int, bytes]:
        """Return the outcome of a task that the host itself failed, for `settle`."""
        if number in self.open:
            self.open[number].verdict = error
        return number, VERDICT, b""

    def lose(self, ticket: Ticket, item: int, error: BaseException, *, retry: bool) -> int | None:
        """Decide what becomes of a task whose worker died in `item`; one that cannot be read again fails.

        Parameters
        ----------
        item : int
            The item that was running.
        error : BaseException
            What the item ends in if it is not run again.
        retry : bool
            Whether this kind of end may be retried.

        Returns
        -------
        int or None
            The kind of outcome to deliver now; None when the ticket is to be
            sent again, beginning with ``ticket.first``.
        """
        kind = self._lose(ticket, item, error, retry)
        if kind is None and self._is_spent(ticket):
            ticket.verdict = error
            return VERDICT
        return kind

    def _is_spent(self, ticket: Ticket) -> bool:
        """Return whether no second worker can unpickle the call: it has descriptors, or a tensor in one."""
        try:
            return HANDED_OVER in self._calls.read(ticket.flags, ticket.data, ticket.number)
        except payload.MismatchError:
            return True

    def _lose(self, ticket: Ticket, item: int, error: BaseException, retry: bool) -> int | None:
        self._pieces.pop(ticket.number, None)
        ticket.unfinished = b""
        keeps = bool(ticket.flags & envelope.KEEP)
        if keeps and item in ticket.kept:
            ticket.first = item + 1
        elif retry and not ticket.cancelled and ticket.tries.get(item, 0) < ticket.policy_of(item).retries:
            ticket.tries = {**ticket.tries, item: ticket.tries.get(item, 0) + 1}
            ticket.first = item
            return None
        elif keeps and ticket.policy.losses != "raise":
            ticket.holes = {**ticket.holes, item: error}
            ticket.first = item + 1
        else:
            ticket.verdict = error
            return VERDICT
        return envelope.PARTS if ticket.first >= ticket.count else None


def _limited(policy: Policy, func: Any) -> Policy:
    """Return a policy with the function's own `limits`."""
    if type(func) is not FunctionType and (overrides := overrides_of(func)):
        return policy.merged(**overrides)
    return policy


def _kept(func: Any) -> Any:
    """Return what is kept of a function.

    Only a plain one itself: a partial or a bound method would keep arguments
    alive that the bare pool has let go.
    """
    return func if type(func) is FunctionType else name_of(func)
