"""The two names of a host's ``Pool`` class that are patched, for all pools of the host together.

``Pool._repopulate_pool_static`` starts workers and is not told for which pool; ``Pool.__init__`` is
patched while `install` is in force. Runs in the thread that makes a pool, and in the pool's worker
handler.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from ...core.left_bare import warn_left_bare
from ...policy import Policy
from ...system.patches import Patch
from .polled_pids import settle_pids
from .worker_starts import WorkerStarts


class NewPool(Protocol):
    """The adapter of a pool that is being made."""

    starts: WorkerStarts

    def attach(self, pool: Any) -> None:
        """Guard the pool, which has been made."""

    def let_go(self) -> None:
        """Release what the guard holds: the pool could not be made."""


class PoolPatches:
    """The class-level seams of one host's ``Pool``.

    Parameters
    ----------
    pool_class : type
        The host's ``Pool``.
    guards : callable
        Tells whether an object is a pool of this host.
    make_adapter : callable
        Makes the adapter of a pool that is being made, from the policy, the
        pool's list of workers and the pool.
    """

    def __init__(
        self,
        pool_class: Any,
        guards: Callable[[object], bool],
        make_adapter: Callable[[Policy, list[Any], Any], NewPool],
    ) -> None:
        self._guards: Final = guards
        self._make_adapter: Final = make_adapter
        self._policy: Policy | None = None
        # By the id of their list of workers, which lives as long as they do.
        self._watched: dict[int, tuple[WorkerStarts, Patch | None]] = {}
        self._making = threading.local()
        self._starts = Patch(pool_class, "_repopulate_pool_static", self._on_repopulate)
        self._constructions = Patch(pool_class, "__init__", self._on_construction)

    def watch(self, starts: WorkerStarts) -> None:
        """Have the workers of a pool started by `starts`."""
        self._starts.take()
        self._watched[id(starts.workers)] = starts, settle_pids()

    def forget(self, starts: WorkerStarts) -> None:
        """Have a pool start its workers by itself; twice is no error."""
        watched = self._watched.pop(id(starts.workers), None)
        if watched is not None:
            self._starts.drop()
            if watched[1] is not None:
                watched[1].drop()

    def install(self, policy: Policy) -> None:
        """Guard pools that are made from now on; a second time changes the policy."""
        if self._policy is None:
            self._constructions.take()
        self._policy = policy

    def uninstall(self) -> None:
        """Put ``Pool.__init__`` back."""
        self._policy = None
        self._constructions.drop()

    def _on_repopulate(
        self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        arguments = inspect.signature(wrapped).bind(*args, **kwargs).arguments
        starts, _ = self._watched.get(id(arguments["pool"]), (None, None))
        make = getattr(self._making, "make", None)
        if starts is None and make is not None:
            starts = make(arguments["pool"])
        if starts is None:
            return wrapped(*args, **kwargs)
        return starts.repopulate(wrapped, arguments)

    def _on_construction(
        self, wrapped: Any, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        policy = self._policy
        if policy is None or not self._guards(pool):
            wrapped(*args, **kwargs)
            return
        made: list[NewPool] = []

        def make(workers: list[Any]) -> WorkerStarts | None:
            # The first list that this thread populates is the new pool's.
            self._making.make = None
            try:
                made.append(self._make_adapter(policy, workers, pool))
            except Exception as error:
                warn_left_bare("this pool is", error)
                return None
            return made[0].starts

        self._starts.take()
        self._making.make = make
        try:
            wrapped(*args, **kwargs)
        except BaseException:
            for adapter in made:
                adapter.let_go()
            raise
        finally:
            self._making.make = None
            self._starts.drop()
        for adapter in made:
            try:
                adapter.attach(pool)
            except Exception as error:
                warn_left_bare("this pool is", error)
