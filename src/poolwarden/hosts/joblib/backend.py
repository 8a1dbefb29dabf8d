"""What our backends for joblib do otherwise than joblib's own, which they go before.

Makes each task of a batch one of its own for the guard, keeps the workers when
a call is aborted, and cleans up behind workers that died. Memmapping,
generators, nesting and auto-batching are joblib's. Runs in the process that
calls ``Parallel``: in its thread, and ``submit`` also in the thread of the
host that delivers results.
"""

from __future__ import annotations

import queue
import sys
import weakref
from concurrent.futures import Future, wait
from typing import Any, ClassVar, Final

from ...core.task_names import caller_site
from ...policy import Policy
from ..batch import Batch
from ..executor.loky import for_joblib
from ..executor.submissions import cancel_future
from ..pool.joblib import MemmappingPool
from ..registry import own_files
from . import files, sklearn

#: Seconds that what is running may take to end when a call is aborted; it is killed at once.
STOP_BOUND: Final = 5.0

_OWN_FILES: Final = ("poolwarden/hosts/joblib/backend.py", *own_files("joblib.parallel"))
#: Options that concern workers, not tasks.
_POOL_OPTIONS: Final = ("startup_timeout", "on_event")


class _Call:
    """What is known of one ``Parallel`` object's calls."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.site: tuple[Any, ...] | None = None
        self.futures: set[Future[Any]] = set()
        self.guard: Any = None
        self.deaths = 0


class Guarded:
    """What our backends have in common; goes before one of joblib's classes."""

    #: The policy of `install`, for whatever a backend is not told itself.
    installed: ClassVar[Policy | None] = None
    parallel: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._calls: weakref.WeakKeyDictionary[Any, _Call] = weakref.WeakKeyDictionary()

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Make workers, guarded, and return how many."""
        policy, given = self._policy(kwargs)
        n_jobs = super().configure(n_jobs=n_jobs, parallel=parallel, **kwargs)  # type: ignore[misc]
        call = self._calls[parallel] = self._calls.get(parallel, _Call(policy))
        call.policy = policy
        self._guard(call, given)
        return n_jobs

    def _policy(self, kwargs: dict[str, Any]) -> tuple[Policy, dict[str, Any]]:
        """Return the policy of a call, and which options were asked for; those are taken out of `kwargs`."""
        return Guarded.installed or Policy(), {}

    def _guard(self, call: _Call, given: dict[str, Any]) -> None:
        raise NotImplementedError

    def start_call(self) -> None:
        """Forget batches that an aborted call has left: joblib gives their results in this one."""
        super().start_call()  # type: ignore[misc]
        for parallel in list(self._calls):
            if parallel.n_dispatched_batches == 0:
                parallel._ready_batches = queue.Queue()

    def _batch(self, func: Any, callback: Any) -> tuple[Batch, _Call]:
        # Not self.parallel: several may share one backend.
        parallel = callback.parallel
        call = self._calls[parallel]
        if parallel.n_dispatched_batches == 1:
            # In the user's thread; later ones are submitted by the host's.
            call.site = caller_site(_OWN_FILES, sys._getframe(1))
        base, policy = parallel.n_dispatched_tasks - len(func), call.policy
        if policy.losses == "return":
            policy = sklearn.for_tasks(policy, func.items, base)
        return Batch(func, base, policy, call.site), call


class OverLoky(Guarded):
    """Goes before ``LokyBackend``."""

    _workers: Any

    def _guard(self, call: _Call, given: dict[str, Any]) -> None:
        adapter = getattr(self._workers, "_poolwarden", None)
        # The executor is everybody's: tasks that come another way have no
        # limits but those that somebody else gave them.
        policy = Policy() if adapter is None else adapter.guard.policy
        for_joblib().guard_object(
            self._workers, policy.merged(**{name: given[name] for name in _POOL_OPTIONS if name in given})
        )
        call.guard = self._workers._poolwarden.guard
        call.deaths = call.guard.deaths
        files.note_first_context(self._workers)

    def submit(self, func: Any, callback: Any = None) -> Future[Any]:
        """Submit a batch; `callback` is called whatever comes of it."""
        batch, call = self._batch(func, callback)
        future: Future[Any] = self._workers.submit(batch)
        call.futures.add(future)
        future.add_done_callback(call.futures.discard)
        future.add_done_callback(callback)
        return future

    # Its name before joblib 1.5.
    apply_async = submit

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop what the aborted call has on its way; the executor and all idle workers stay."""
        aborted = {parallel._id: call for parallel, call in list(self._calls.items()) if parallel._aborting}
        futures = [future for call in aborted.values() for future in list(call.futures)]
        for future in futures:
            if not future.cancel():
                cancel_future(future)
        wait(futures, STOP_BOUND)
        flags = self._workers._flags
        if flags.broken or flags.shutdown:
            super().abort_everything(ensure_ready=ensure_ready)  # type: ignore[misc]
            return
        for context, call in aborted.items():
            files.clean_up_failed(self._workers, context, died=call.deaths != call.guard.deaths)

    def terminate(self) -> None:
        """End a call; the workers stay."""
        call = self._calls.get(self.parallel)
        if self._workers is not None and call is not None and call.deaths != call.guard.deaths:
            # Else joblib would keep until the exit what the dead had mapped.
            files.clean_up(self._workers, self.parallel._id, died=True)
        super().terminate()  # type: ignore[misc]


class OverPool(Guarded):
    """Goes before ``MultiprocessingBackend``, which makes a pool for each call."""

    _pool: Any

    def _guard(self, call: _Call, given: dict[str, Any]) -> None:
        MemmappingPool.guard_object(self._pool, call.policy)

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Submit a batch; `callback` is called whatever comes of it."""
        batch, _ = self._batch(func, callback)
        return self._pool.apply_async(batch, (), {}, callback, callback)

    apply_async = submit
