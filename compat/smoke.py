"""One short guarded run of one host, in the environment that has it.

``python smoke.py KIND``: under each start method, one task is lost with its
worker, every other one has its right result, and the pool answers afterwards
and ends. ``python smoke.py KIND bare`` loses none and guards nothing: whether
the host runs on this Python at all. The exit code is the verdict. `KIND` is a
host's, as in ``poolwarden doctor``.
"""

from __future__ import annotations

import concurrent.futures
import faulthandler
import importlib
import multiprocessing
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import poolwarden
from poolwarden import WorkerLostError
from poolwarden.testing import die, kill_self

#: Seconds for each wait, and for the whole run.
BOUND = 30.0
WHOLE = 120.0

BARE = sys.argv[2:] == ["bare"]


def guard(pool: Any) -> Any:
    """Return the pool, guarded or not."""
    return pool if BARE else poolwarden.guard(pool)


def pools(package: str) -> Iterator[None]:
    """Run a ``Pool`` under each start method."""
    host = importlib.import_module(package)
    for method in host.get_all_start_methods():
        with guard(host.get_context(method).Pool(2)) as pool:
            _check(lambda func, *args, pool=pool: pool.apply_async(func, args).get)
        pool.join()
        yield


def processes(package: str) -> Iterator[None]:
    """Run a ``Process`` that dies and one that does not, under each start method."""
    host = importlib.import_module(package)
    for method in host.get_all_start_methods():
        for target, is_lost in ((die(3), not BARE), (int, False)):
            process = guard(host.get_context(method).Process(target=target))
            process.start()
            assert _is_lost(process.join) == is_lost
            assert process.exitcode == (0 if target is int else 3)
        yield


def executors() -> Iterator[None]:
    """Run a `ProcessPoolExecutor` under each start method."""
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with guard(concurrent.futures.ProcessPoolExecutor(2, context)) as executor:
            _check(lambda func, *args, executor=executor: executor.submit(func, *args).result)
        yield


def loky(package: str) -> Iterator[None]:
    """Run an executor of a copy of loky, and the one it keeps for reuse."""
    host = importlib.import_module(package)
    with guard(host.ProcessPoolExecutor(2)) as executor:
        _check(lambda func, *args: executor.submit(func, *args).result)
    yield
    reusable = guard(host.get_reusable_executor(2))
    _check(lambda func, *args: reusable.submit(func, *args).result)
    reusable.shutdown()
    yield


def joblib() -> Iterator[None]:
    """Run `Parallel` with each inner backend; the call that loses a task is followed by one that does not."""
    from joblib import Parallel, delayed, parallel_config

    right = [-n for n in range(50)]
    for inner in ("loky", "multiprocessing"):
        if BARE:
            assert Parallel(2, backend=inner)(delayed(operator.neg)(n) for n in range(50)) == right
            yield
            continue
        with parallel_config("poolwarden", inner=inner, n_jobs=2):
            parallel = Parallel()
            assert _is_lost(lambda _, parallel=parallel: parallel([delayed(kill_self())()]))
            assert parallel(delayed(operator.neg)(n) for n in range(50)) == right
        with parallel_config("poolwarden", inner=inner, n_jobs=2, losses="return"):
            first, second = Parallel()([delayed(kill_self())(), delayed(operator.neg)(1)])
            assert isinstance(first, WorkerLostError)
            assert second == -1
        yield


def _check(submit: Callable[..., Callable[[float], Any]]) -> None:
    """Lose one task among others, and use the pool again."""
    before = [submit(operator.neg, n) for n in range(10)]
    lost = None if BARE else submit(kill_self())
    after = [submit(operator.neg, n) for n in range(10)]
    assert lost is None or _is_lost(lost)
    assert [get(BOUND) for get in before + after] == [-n for n in range(10)] * 2
    assert submit(operator.neg, 7)(BOUND) == -7


def _is_lost(get: Callable[[float], Any]) -> bool:
    try:
        get(BOUND)
    except WorkerLostError:
        return True
    return False


KINDS: dict[str, Callable[[], Iterator[None]]] = {
    "multiprocessing.Pool": lambda: pools("multiprocessing"),
    "multiprocessing.Process": lambda: processes("multiprocessing"),
    "multiprocess.Pool": lambda: pools("multiprocess"),
    "multiprocess.Process": lambda: processes("multiprocess"),
    "concurrent.futures.ProcessPoolExecutor": executors,
    "loky.ProcessPoolExecutor": lambda: loky("loky"),
    "joblib.externals.loky.ProcessPoolExecutor": lambda: loky("joblib.externals.loky"),
    "joblib.Parallel": joblib,
}

if __name__ == "__main__":
    faulthandler.dump_traceback_later(WHOLE, exit=True)
    print(sum(1 for _ in KINDS[sys.argv[1]]()), "ways")
