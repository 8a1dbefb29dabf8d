"""What the core asks of a host: `Host` of every one, `HostQueue` of one whose workers share a pipe.

A host must give what is abstract here: how its values are pickled (`Codec`), and
a thread that hands results to its users, in order, to which outcomes can be
added (`deliver`) and tasks be given back (`resend`). It may give the rest; what
the core does without it stands with each method. A host that has no pipe which
its workers share leaves `can_repair` False: what was sent to a worker that has
died idle is then its own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

from . import stop_world
from .codec import Codec
from .send_gate import Gate
from .tickets import Ticket
from .workers import Snapshot, Worker


class Host(Codec, ABC):
    """What the core asks of one guarded pool's host.

    Attributes
    ----------
    name : str
        The host, for events and messages.
    reaps : bool
        Whether the host notices by itself that a worker has ended.
    can_repair : bool
        Whether workers share a queue that their death may damage, and `repair` mends it.
    """

    name: ClassVar[str]
    reaps: ClassVar[bool] = True
    can_repair: ClassVar[bool] = False

    @abstractmethod
    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        """Hand an outcome to the host's result thread, behind what is already on its way there.

        Any thread may call it; it never blocks. The result thread then calls
        `Guard.settle`. That one thread answers everything is what keeps a
        result from being delivered twice.
        """

    def answer_unbegun(self, ticket: Ticket) -> None:
        """Have the result thread answer a cancelled task at once, unless `Guard.has_begun` it. Any thread.

        It stays open: its message is still on its way to a worker, which skips
        it, and what comes back then has to be settled as for any other. A host
        that leaves this out answers the task only then.
        """
        return None

    @abstractmethod
    def resend(self, tickets: Iterable[Ticket]) -> None:
        """Send tickets again, before tasks that wait for their first time. Any thread; never blocks."""

    def repair(self, guard: Any) -> None:
        """Put the plumbing right after a death that may have damaged it, if `can_repair`. Watchdog's."""
        return None

    def nudge(self) -> None:
        """Make the host look for dead workers now, and replace them, if it does not do so by itself."""
        return None

    def catch_up(self, bound: float) -> None:
        """Wait until the result thread has handled what was sent before, `bound` seconds at most."""
        return None

    def is_somebody_sending(self) -> bool:
        """Return whether the lock for sending results is taken, by the living or the dead."""
        return False

    def may_worker_leave(self, code: int | None) -> bool:
        """Return whether a worker may have left in an orderly way, with this exit code, on purpose."""
        return False

    def has_older_tasks(self) -> bool:
        """Return whether a task that was sent before the guard is unanswered. Watchdog's thread."""
        return False

    def buried(self, worker: Worker, seen: Snapshot) -> None:
        """Note the end of a worker, after its task was answered for. Watchdog's thread."""
        return None

    def stray_workers(self, workers: Iterable[Worker]) -> list[Worker]:
        """Return the live workers that the host has lost sight of."""
        return []

    def workers_are_gone(self) -> None:
        """Called when no worker is left: the pool may have ended. Watchdog's thread."""
        return None

    def answered_all(self) -> None:
        """Called in a pool that was unguarded when no ticket is open; more may be waiting to be issued."""
        return None

    def disown(self) -> None:
        """Leave the pool to the host, in a process that was forked: no other thread is there. Never waits."""
        return None

    def on_broken(self) -> None:
        """Called once the pool can run nothing any more, after open tickets were answered."""
        return None


class HostQueue(Protocol):
    """A host's way from its tasks to its workers.

    Attributes
    ----------
    gate : Gate
        What every writer of tasks passes.
    """

    gate: Gate

    def reader(self) -> int:
        """Return the descriptor of the end that workers read, in this process."""

    def read_lock(self) -> Any:
        """Return the lock that a worker holds while it waits for a task; None if there is none."""

    def free_other_locks(self, free: Callable[[Any], None] = stop_world.free) -> None:
        """Free all other locks that workers may hold, with `free`."""

    def is_quiet(self) -> bool:
        """Return whether no task is being written, nor on its way through the host."""

    def may_keep(self, worker: Worker) -> bool:
        """Return whether a stopped worker must live though it was not proved harmless."""

    def empty(self) -> set[int]:
        """Empty the task pipe, with what is on its way to it; the reader's lock is ours.

        Returns the numbers of the tickets that were in it, as far as it can be read.
        """

    def call_behind(self, action: Callable[[], None]) -> None:
        """Have the host's result thread call `action` behind all answers that were sent before."""
