"""How a pool of `multiprocessing` or of one of its copies comes to be guarded, and to be left alone.

Covers what concerns a host's ``Pool`` as a class: which objects are such pools,
which private names of theirs are used, and the ways in: ``guard``, ``unguard``,
``install`` and ``uninstall``. What is done with one pool is its adapter's.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from typing import Any, ClassVar, Final

from ...core.belonging import is_made_here
from ...errors import ConfigurationError
from ...policy import Policy
from ...system.patches import Seam, attributes_of, check, check_attributes
from ...system.stepping import in_one_step
from ..base import NOT_OURS, PoolAdapter
from .patches import PoolPatches
from .worker_starts import WorkerStarts

#: Why a pool cannot be guarded that has ended.
ENDED: Final = "the pool has been terminated already; there is nothing left to guard"

_ATTRIBUTES: Final = (
    "_taskqueue", "_cache", "_inqueue", "_outqueue", "_change_notifier", "_terminate", "_pool", "_state",
    "_task_handler", "_worker_handler", "_result_handler", "_processes", "_map_async", "_check_running",
)  # fmt: skip
_QUEUE_ATTRIBUTES: Final = ("_reader", "_writer", "_rlock")
_STATIC: Final = ("Process", "processes", "pool", "initializer", "initargs")


class PoolHost(PoolAdapter):
    """What holds for every ``Pool`` of one host, and the ways in.

    Attributes
    ----------
    module : module
        Where the host has its ``Pool``. Not a subclass of one: that of
        another host, or of none, has no seams of its own.
    patches : PoolPatches
        What is patched in the host's class.
    starts : WorkerStarts
        Starts the workers of this pool.
    """

    module: ClassVar[Any]
    patches: ClassVar[PoolPatches]
    starts: WorkerStarts

    def __init_subclass__(cls) -> None:
        if "module" in vars(cls):
            cls.patches = PoolPatches(
                cls.module.Pool,
                lambda pool: cls.guards(pool),
                lambda policy, workers, pool: cls.class_for(pool)(policy, workers, pool),
            )

    @abstractmethod
    def __init__(self, policy: Policy, workers: list[Any], pool: Any) -> None:
        super().__init__()

    def attach(self, pool: Any) -> None:
        """Hook `pool` up in one step; its private names have been checked. If that fails, it is as it was."""
        in_one_step(lambda: self._attach(pool))

    @abstractmethod
    def _attach(self, pool: Any) -> None:
        """Hook `pool` up, or raise and leave it as it was."""

    @abstractmethod
    def detach(self, pool: Any) -> None:
        """Leave `pool` to itself; tasks in flight stay guarded until they are answered."""

    @abstractmethod
    def let_go(self) -> None:
        """Release all that the guard holds; twice is no error."""

    def processes(self) -> list[Any]:
        return list(self.starts.workers)

    @classmethod
    def seams(cls) -> tuple[Seam, ...]:
        """Return the private names that are used."""
        return (
            Seam(cls.module.Pool, "_repopulate_pool_static", _STATIC),
            Seam(cls.module.Pool, "_terminate_pool"),
            Seam(cls.module.ApplyResult, "_set"),
            Seam(cls.module.MapResult, "_set"),
            Seam(cls.module.IMapIterator, "_set"),
            Seam(cls.module.IMapIterator, "_set_length"),
        )

    @classmethod
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return them, and the attributes that a pool has to have."""
        queues = importlib.import_module(cls.module.__name__.replace(".pool", ".queues"))
        return (
            *cls.seams(),
            *attributes_of(cls.module.Pool, _ATTRIBUTES),
            *attributes_of(queues.SimpleQueue, _QUEUE_ATTRIBUTES),
        )

    @classmethod
    def guards(cls, pool: object) -> bool:
        """Return whether `pool` is of this host, with processes as workers."""
        return isinstance(pool, cls.module.Pool) and not isinstance(pool, cls.module.ThreadPool)

    @classmethod
    def class_for(cls, pool: object) -> type[PoolHost]:
        """Return this class, or the one of a subclass of the host's pool, if it has its own."""
        return next((special for special in cls.__subclasses__() if special.guards(pool)), cls)

    @classmethod
    def guard_object(cls, pool: Any, policy: Policy) -> None:
        """Guard `pool`, or change the policy of one that is guarded."""
        in_one_step(lambda: cls._guard(pool, policy))

    @classmethod
    def _guard(cls, pool: Any, policy: Policy) -> None:
        adapter = getattr(pool, "_poolwarden", None)
        if adapter is not None:
            adapter.guard.policy = policy
            return
        leaving = pool.__dict__.get("_poolwarden_leaving")
        if leaving is not None and leaving.come_back(pool, policy):
            return
        check(cls.seams(), cls.name)
        check_attributes(pool, _ATTRIBUTES, cls.name)
        if not all(map(is_made_here, pool._pool)):
            raise ConfigurationError(NOT_OURS)
        check_attributes(pool._inqueue, _QUEUE_ATTRIBUTES, cls.name)
        check_attributes(pool._outqueue, _QUEUE_ATTRIBUTES, cls.name)
        if pool._state not in (cls.module.RUN, cls.module.CLOSE):
            raise ConfigurationError(ENDED)
        cls.class_for(pool)(policy, pool._pool, pool).attach(pool)

    @classmethod
    def unguard_object(cls, pool: Any) -> None:
        """Leave `pool` to itself."""

        def detach() -> None:
            adapter = getattr(pool, "_poolwarden", None)
            if adapter is not None:
                adapter.detach(pool)

        in_one_step(detach)

    @classmethod
    def install(cls, policy: Policy) -> None:
        """Guard every pool of this host that is made from now on."""
        check(cls.seams(), cls.name)
        cls.patches.install(policy)

    @classmethod
    def uninstall(cls) -> None:
        """Take `install` back."""
        cls.patches.uninstall()

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        error.__cause__ = self.module.RemoteTraceback(f'\n"""\n{text}"""')
        return error

    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        error: BaseException = self.module.MaybeEncodingError.__new__(self.module.MaybeEncodingError)
        # Its __init__ takes the objects themselves and keeps only their repr.
        error.exc, error.value = why, what  # type: ignore[attr-defined]
        error.args = (why, what)
        return error
