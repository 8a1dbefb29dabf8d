"""The contract between the core and a host, and the manual for a new host.

A host is a library with process pools. Its adapter says where a pool can be
hooked and does what only the host's own plumbing can do; everything else (what
a death means, timeouts, retries, errors) is the core's. To add a host:

1. A host that is a copy of `multiprocessing`, or of the executor, needs a
   subclass of `BasePool` (`ExecutorAdapter`) that names its module and its
   pickler, nothing more: see ``pool/multiprocess.py``. Any other begins as a copy
   of ``pool/adapter.py``, and:
2. Send tasks as ``worker.envelope.run(*ticket.call(pool_name))``, with tickets
   from ``guard.tickets.issue``; set ``ticket.sent`` just before the message
   can reach a worker.
3. Hand every result to ``guard.settle`` in the host's result thread, and pass
   on what it returns; ``None`` means: already answered, drop it.
4. Make workers start with ``worker.member.birth`` as their initializer, and
   tell ``guard.born`` of each process.
5. Call ``guard.close`` when the pool ends.
6. Name the private names that are used in ``all_seams``, for ``poolwarden doctor``.
7. Add the host to ``hosts.registry``, its constructors to
   ``activation.startup``, and a test file that inherits the contract suite.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..system.capabilities import require
from ..worker.picklers import pickling_of

if TYPE_CHECKING:
    from ..core.guard import Guard
    from ..core.tickets import Ticket
    from ..core.workers import Snapshot, Worker
    from ..system.patches import Seam

#: Why a pool cannot be guarded that a fork has copied.
NOT_OURS: Final = (
    "the pool was made in another process, of which this one is a fork; only there it can be guarded. "
    "It is as it was."
)
#: By host, the number of its next pool.
_numbers: Final[dict[str, itertools.count[int]]] = {}


class PoolAdapter(ABC):
    """What the core asks of one guarded pool's host.

    Holds only a weak reference to the pool: a pool that nobody uses any more
    must be collected, as it would be without a guard.

    Attributes
    ----------
    name : str
        The host, for events and messages.
    reaps : bool
        Whether the host notices by itself that a worker has ended.
    pickler_name : str
        ``module:name`` of the host's pickler class, or of its ``dump``
        function; used here and in the workers, so that whatever the host can
        pickle still can be. If it has ``loads``, that unpickles.
    """

    name: ClassVar[str]
    reaps: ClassVar[bool] = True
    pickler_name: ClassVar[str] = "multiprocessing.reduction:ForkingPickler"

    @classmethod
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return the private names of the host that are used, its objects' attributes included."""
        return ()

    def __init__(self, reducers: Any = None) -> None:
        require()
        self.dumper, self.loads = pickling_of(self.pickler_name, reducers)

    def title(self) -> str:
        """Return a name for this pool that no other has, such as ``Pool-3``; call it once."""
        return f"{self.name}-{next(_numbers.setdefault(self.name, itertools.count(1)))}"

    @abstractmethod
    def processes(self) -> list[Any]:
        """Return the worker processes that the host has now."""

    @abstractmethod
    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        """Return a task's exception with the worker's traceback as its cause, as the host shows it."""

    def as_host_error(self, error: BaseException) -> BaseException:
        """Return an error of ours as one that this host's users catch already."""
        return error

    @abstractmethod
    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        """Return what this host raises for a result or exception that cannot be pickled.

        Parameters
        ----------
        why, what : str
            ``repr`` of the pickling error and of the object.
        text : str
            The task's own traceback when it is its exception that cannot be
            pickled, else empty.
        cause : BaseException or None
            The pickling error, if that can be pickled.
        """

    @abstractmethod
    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        """Hand an outcome to the host's result thread, behind what is already on its way there.

        Any thread may call it; it never blocks. The result thread then calls
        `Guard.settle`. That one thread answers everything is what keeps a
        result from being delivered twice.
        """

    @abstractmethod
    def answer_unbegun(self, ticket: Ticket) -> None:
        """Have the result thread answer a cancelled task at once, unless `Guard.has_begun` it. Any thread.

        It stays open: its message is still on its way to a worker, which skips
        it, and what comes back then has to be settled as for any other.
        """

    @abstractmethod
    def resend(self, tickets: Iterable[Ticket]) -> None:
        """Send tickets again, before tasks that wait for their first time. Any thread; never blocks."""

    @abstractmethod
    def repair(self, guard: Guard) -> None:
        """Put the plumbing right after a death that may have damaged it. Watchdog's thread."""

    @abstractmethod
    def nudge(self) -> None:
        """Make the host look for dead workers now, and replace them."""

    def catch_up(self, bound: float) -> None:
        """Wait until the result thread has handled what was sent before, `bound` seconds at most."""
        return None

    def is_somebody_sending(self) -> bool:
        """Return whether the lock for sending results is taken, by the living or the dead."""
        return False

    @abstractmethod
    def may_worker_leave(self, code: int | None) -> bool:
        """Return whether a worker may have left in an orderly way, with this exit code, on purpose."""

    @abstractmethod
    def has_older_tasks(self) -> bool:
        """Return whether a task that was sent before the guard is unanswered. Watchdog's thread."""

    def buried(self, worker: Worker, seen: Snapshot) -> None:
        """Note the end of a worker, after its task was answered for. Watchdog's thread."""
        return None

    def stray_workers(self, workers: Iterable[Worker]) -> list[Worker]:
        """Return the live workers that the host has lost sight of."""
        known = {id(process) for process in self.processes()}
        return [worker for worker in workers if id(worker.process) not in known]

    def workers_are_gone(self) -> None:
        """Called when no worker is left: the pool may have ended. Watchdog's thread."""
        return None

    @abstractmethod
    def answered_all(self) -> None:
        """Called in a pool that was unguarded when no ticket is open; more may be waiting to be issued."""

    @abstractmethod
    def disown(self) -> None:
        """Leave the pool to the host, in a process that was forked: no other thread is there. Never waits."""

    @abstractmethod
    def on_broken(self) -> None:
        """Called once the pool can run nothing any more, after open tickets were answered."""
