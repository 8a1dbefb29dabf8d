"""Births of a pool's workers, and of whole pools.

Covers the two class-level seams: ``Pool._repopulate_pool_static``, which starts
workers and is not told for which pool, and ``Pool.__init__``, while ``install``
is in force. Runs in the thread that makes the pool, and in the pool's worker
handler, which must never see an exception.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ...core.left_bare import warn_left_bare
from ...policy import Policy
from ...system.forking import no_telling
from ...system.patches import Patch
from ...system.watchdog import watchdog
from ...worker.member import birth
from .polled_pids import settle_pids

if TYPE_CHECKING:
    from .adapter import BasePool

log = logging.getLogger("poolwarden")

#: Failures in a row to start a worker before the pool is given up; about 6 s.
START_TRIES: Final = 10


class Births:
    """Starts the workers of one pool under its guard.

    Parameters
    ----------
    adapter : BasePool
        The pool's adapter.
    workers : list
        The pool's own list of processes, which also identifies the pool.
    """

    def __init__(self, adapter: BasePool, workers: list[Any]) -> None:
        self.workers = workers
        self._adapter = adapter
        self._failures = 0
        #: Of code outside that looks at this pool's pids.
        self.pids: Patch | None = None
        # Those that were born before the pool's own threads could be watched.
        self._early: list[Any] | None = []
        adapter.patches.watch(self)

    def begin(self) -> bool:
        """Tell the guard of all workers; return whether they are older than it."""
        guard = self._adapter.guard
        with guard.births:
            older = not self._early
            for process in list(self.workers) if older else self._early or []:
                guard.born(process, older=older)
            self._early = None
        return older

    def end(self) -> None:
        """Leave later births to the pool itself; ending twice is no error."""
        self._adapter.patches.forget(self)

    def repopulate(self, start: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Start missing workers under the guard.

        Parameters
        ----------
        start : callable
            The pool's own function.
        arguments : dict
            Its arguments by name.
        """
        adapter, guard = self._adapter, self._adapter.guard
        watchdog().look_alive()
        guard.wait_for_burials()
        guard.breaker.wait_before_birth()
        with guard.births:
            if guard.broken is not None or adapter.ending:
                return
            initargs = (guard.pool_name, arguments["initializer"], arguments["initargs"])
            before = {id(process) for process in self.workers}
            try:
                with no_telling():
                    start(
                        **{
                            **arguments,
                            "Process": self._make_process(arguments["Process"]),
                            "initializer": birth,
                            "initargs": initargs,
                        }
                    )
                self._failures = 0
            except Exception as error:
                # In the worker handler's thread: it would end, and nobody
                # would ever replace a worker or end the pool.
                if self._early is not None:
                    raise
                self._try_again(error, start, arguments)
            finally:
                new = [process for process in self.workers if id(process) not in before]
                if self._early is not None:
                    self._early.extend(new)
                else:
                    for process in new:
                        guard.born(process)
        guard.dismiss_strays()

    def _make_process(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return what makes a worker's process object, and gives it its place in the pool's memory."""
        memory = self._adapter.guard.memory

        def make_with_place(*args: Any, **kwargs: Any) -> Any:
            process = make(*args, **kwargs)
            memory.prepare(process)
            return process

        return make_with_place

    def _try_again(self, error: Exception, start: Callable[..., None], arguments: dict[str, Any]) -> None:
        """No worker could be started: no memory, no process left, or a fork server that dies."""
        guard = self._adapter.guard
        self._failures += 1
        reason = f"no worker can be started ({type(error).__name__}: {error})"
        if self._failures >= START_TRIES:
            guard.break_pool(reason)
            return
        guard.tell("init_failed", detail=reason)
        pause = min(0.05 * 2**self._failures, 1.0)
        guard.call_later(pause, lambda: self.repopulate(start, arguments))


class PoolPatches:
    """The class-level seams of one host's ``Pool``.

    Parameters
    ----------
    adapter_class : type
        Makes adapters for pools that are born while `install` is in force.
    """

    def __init__(self, adapter_class: type[BasePool]) -> None:
        self._adapter_class = adapter_class
        self._policy: Policy | None = None
        # By the id of their list of workers, which lives as long as they do.
        self._watched: dict[int, Births] = {}
        self._making = threading.local()
        pool_class = adapter_class.module.Pool
        self._births = Patch(pool_class, "_repopulate_pool_static", self._on_repopulate)
        self._constructions = Patch(pool_class, "__init__", self._on_construction)

    def watch(self, births: Births) -> None:
        """Pass a pool's births on to `births`."""
        self._watched[id(births.workers)] = births
        self._births.take()
        births.pids = settle_pids()

    def forget(self, births: Births) -> None:
        """Leave a pool's births alone."""
        if self._watched.pop(id(births.workers), None) is not None:
            self._births.drop()
            if births.pids is not None:
                births.pids.drop()

    def install(self, policy: Policy) -> None:
        """Guard pools from their birth; a second time changes the policy."""
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
        births = self._watched.get(id(arguments["pool"]))
        make = getattr(self._making, "make", None)
        if births is None and make is not None:
            births = make(arguments["pool"])
        if births is None:
            return wrapped(*args, **kwargs)
        return births.repopulate(wrapped, arguments)

    def _on_construction(
        self, wrapped: Any, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        policy = self._policy
        if policy is None or not self._adapter_class.guards(pool):
            wrapped(*args, **kwargs)
            return
        made: list[BasePool] = []

        def make(workers: list[Any]) -> Births | None:
            # The first list that this thread populates is the new pool's.
            self._making.make = None
            try:
                made.append(self._adapter_class.class_for(pool)(policy, workers, pool))
            except Exception as error:
                warn_left_bare("this pool is", error)
                return None
            return made[0].births

        self._births.take()
        self._making.make = make
        try:
            wrapped(*args, **kwargs)
        except BaseException:
            for adapter in made:
                adapter.let_go()
            raise
        finally:
            self._making.make = None
            self._births.drop()
        for adapter in made:
            try:
                adapter.attach(pool)
            except Exception as error:
                warn_left_bare("this pool is", error)
