"""What all adapters of hosts have, and the manual for a new host.

A host is a library with process pools. Its adapter says where a pool can be
hooked and does what only the host's own plumbing can do (`core.ports` says what
that is); everything else (what a death means, timeouts, retries, errors) is the
core's. To add a host:

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
7. Add the host to ``hosts.registry``, its adapter to ``hosts.loading``, and a
   test file that inherits the contract suite.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..core.ports import Host
from ..system.capabilities import require
from ..worker.picklers import pickling_of

if TYPE_CHECKING:
    from ..core.workers import Worker
    from ..system.patches import Seam

#: Why a pool cannot be guarded that a fork has copied.
NOT_OURS: Final = (
    "the pool was made in another process, of which this one is a fork; only there it can be guarded. "
    "It is as it was."
)
#: By host, the number of its next pool.
_numbers: Final[dict[str, itertools.count[int]]] = {}


class PoolAdapter(Host):
    """One guarded pool of a host whose workers are processes of this machine.

    Holds only a weak reference to the pool: a pool that nobody uses any more
    must be collected, as it would be without a guard.
    """

    can_repair = True
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

    def stray_workers(self, workers: Iterable[Worker]) -> list[Worker]:
        """Return the live workers that the host has lost sight of."""
        known = {id(process) for process in self.processes()}
        return [worker for worker in workers if id(worker.process) not in known]
