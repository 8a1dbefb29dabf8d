"""`guard`, `unguard` and `cancel`: the calls in the user's code."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..policy import Policy
from ..system.stepping import in_one_step

# Loaded with `guard`, not by it: a worker that the host forks in another thread meanwhile would stand still
# before its first guarded task, for ever, in the lock of the module that was being imported.
from ..worker import envelope  # noqa: F401

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.pool import AsyncResult, Pool, ThreadPool
    from multiprocessing.process import BaseProcess
    from typing import TypeAlias

    from ..policy import Losses
    from ..records import Event

    class ThreadsCannotBeGuarded:
        """Says in a type checker's message what is wrong."""

    # A `ThreadPool` is a `Pool` to a type checker. A coroutine is the one result that checkers do not
    # let anybody throw away, and it has nothing of a pool: so each use of `guard` for threads is found.
    _Refused: TypeAlias = Coroutine[ThreadsCannotBeGuarded, ThreadsCannotBeGuarded, ThreadsCannotBeGuarded]

_Pool = TypeVar("_Pool", bound="Pool | ProcessPoolExecutor | BaseProcess")


@overload
def guard(  # type: ignore[overload-overlap]
    pool: ThreadPool,
    *,
    timeout: float | None = None,
    grace: float = 0.0,
    retries: int = 0,
    losses: Losses = "raise",
    startup_timeout: float | None = None,
    cancel_running: bool = False,
    on_event: Callable[[Event], object] | None = None,
) -> _Refused: ...
@overload
def guard(
    pool: _Pool,
    *,
    timeout: float | None = None,
    grace: float = 0.0,
    retries: int = 0,
    losses: Losses = "raise",
    startup_timeout: float | None = None,
    cancel_running: bool = False,
    on_event: Callable[[Event], object] | None = None,
) -> _Pool: ...
def guard(
    pool: Any,
    *,
    timeout: float | None = None,
    grace: float = 0.0,
    retries: int = 0,
    losses: Losses = "raise",
    startup_timeout: float | None = None,
    cancel_running: bool = False,
    on_event: Callable[[Event], object] | None = None,
) -> Any:
    """Guard a pool (or a process) in place, and return it.

    Every task submitted from now on ends in its result, its own exception, or
    a `PoolWardenError` that says which task, which worker and how it died;
    only that task fails, and the pool stays usable. Works on a fresh, a used
    and a busy pool; a second call changes the policy.

    Parameters
    ----------
    pool : multiprocessing.Pool or multiprocessing.Process
        The pool; it stays the same object.
    timeout : float, optional
        Seconds one task (one item of a chunk) may run, from its start.
    grace : float, default 0
        Seconds between raising `TaskTimeoutError` in the task and SIGKILL.
    retries : int, default 0
        How often a task that was lost with its worker is run again.
    losses : {"raise", "return"} or callable, default "raise"
        What ``map`` and the like do with a lost or timed-out item: raise its
        error, have that in the place of its result, or have there what
        ``losses(error)`` returns; see `Policy`.
    startup_timeout : float, optional
        Seconds a worker may take for its initializer.
    cancel_running : bool, default False
        Whether cancelling a future of an executor, or asyncio's one of it,
        stops a running task.
    on_event : callable, optional
        Called with each `Event`, in a thread of poolwarden's.

    Returns
    -------
    object
        `pool` itself.

    Raises
    ------
    TypeError
        `pool` is nothing that can be guarded.
    ConfigurationError
        An option has an invalid value, this version of the host is not known,
        this system lacks what a guard needs, the pool's shared memory could not
        be mapped, or the pool cannot be watched: no thread can be started, or
        threads are greenlets (gevent, eventlet). The pool is as it was.
    """
    wanted = Policy(
        timeout=timeout,
        grace=grace,
        retries=retries,
        losses=losses,
        startup_timeout=startup_timeout,
        cancel_running=cancel_running,
        on_event=on_event,
    )
    # In one step: a signal handler must not come between what is imported for it.
    in_one_step(lambda: _adapter_for(pool).guard_object(pool, wanted))
    return pool


def unguard(pool: _Pool) -> _Pool:
    """Leave a pool to itself again, and return it.

    Tasks in flight finish as in the bare pool. A pool that is not guarded is
    left as it is.
    """
    in_one_step(lambda: _adapter_for(pool).unguard_object(pool))
    return pool


def _adapter_for(pool: object) -> Any:
    """Return the adapter class of a pool, loaded when it is first wanted.

    The main module of a program is imported by each of its spawned workers, and
    names `guard`: what only a parent needs is no part of that.
    """
    from ..hosts.loading import adapter_for
    from . import reporting  # noqa: F401 - the report looks on

    return adapter_for(pool)


def cancel(handle: AsyncResult[Any] | Future[Any] | asyncio.Future[Any]) -> bool:
    """Stop a task of a guarded pool, running or not, and return whether that was possible.

    That task alone ends with `concurrent.futures.CancelledError`: one that has
    not begun at once, and it never runs and costs no worker; a running one
    with its worker, which is killed. Any thread may call it.

    Parameters
    ----------
    handle : multiprocessing.pool.AsyncResult, concurrent.futures.Future or asyncio.Future
        What the submission returned, or what asyncio made of it
        (``run_in_executor``, ``wrap_future``).

    Returns
    -------
    bool
        False when the task had already ended.

    Raises
    ------
    TypeError
        `handle` does not belong to a guarded pool.
    """
    adapter = getattr(getattr(handle, "_pool", None), "_poolwarden", None)
    if adapter is not None:
        return bool(adapter.cancel(handle))
    if isinstance(handle, Future) or hasattr(handle, "_asyncio_future_blocking"):
        from ..hosts.executor.submissions import cancel_future

        stopped = cancel_future(handle)
        if stopped is not None:
            return stopped
        # A future does not say whose it is; one that is done could not be stopped anyway.
        if handle.done():  # type: ignore[union-attr]
            return False
    elif hasattr(handle, "_poolwarden"):
        return False
    raise TypeError(f"cancel() takes a handle of a guarded pool, not {type(handle).__qualname__}")
