"""The hosts that can be guarded, in one list.

An adapter is loaded only for an object of its host, or for `install` once the
host is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Host:
    """Where a host is, and where its adapter.

    Attributes
    ----------
    imported : str
        The host's module; the classes of its objects, or those that these inherit, say that they are of it.
    load : callable
        Imports the adapter's module and returns the adapter's class.
    kind : str
        What users call it, for error messages.
    distribution : str
        What is installed with it; empty for the standard library.
    has_pools : bool
        Whether there is something to give to `guard`, or only to `install`.
    """

    imported: str
    load: Callable[[], Any]
    kind: str
    distribution: str = ""
    has_pools: bool = True


# Plain imports, one function each: freezers take along only modules that an import statement names.


def _pool() -> Any:
    from .pool.multiprocessing import MultiprocessingPool

    return MultiprocessingPool


def _executor() -> Any:
    from .executor.futures import FuturesExecutor

    return FuturesExecutor


def _loky() -> Any:
    from .executor.loky import for_loky

    return for_loky()


def _loky_of_joblib() -> Any:
    from .executor.loky import for_joblib

    return for_joblib()


def _joblib() -> Any:
    from .joblib.guarded import JoblibBackends

    return JoblibBackends


def _multiprocess() -> Any:
    from .pool.multiprocess import MultiprocessPool

    return MultiprocessPool


def _process() -> Any:
    from .process.multiprocessing import MultiprocessingProcess

    return MultiprocessingProcess


def _multiprocess_process() -> Any:
    from .process.multiprocess import MultiprocessProcess

    return MultiprocessProcess


HOSTS: Final = (
    Host("multiprocessing.pool", _pool, "multiprocessing.Pool"),
    Host(
        "concurrent.futures.process",
        _executor,
        "concurrent.futures.ProcessPoolExecutor",
    ),
    Host("loky.process_executor", _loky, "loky.ProcessPoolExecutor", "loky"),
    Host(
        "joblib.externals.loky.process_executor",
        _loky_of_joblib,
        "joblib.externals.loky.ProcessPoolExecutor",
        "joblib",
    ),
    Host("joblib.parallel", _joblib, "joblib.Parallel", "joblib", has_pools=False),
    Host("multiprocess.pool", _multiprocess, "multiprocess.Pool", "multiprocess"),
    Host("multiprocessing.process", _process, "multiprocessing.Process"),
    Host(
        "multiprocess.process",
        _multiprocess_process,
        "multiprocess.Process",
        "multiprocess",
    ),
)


def adapter_for(obj: object) -> Any:
    """Return the adapter class of an object.

    Raises
    ------
    TypeError
        Nothing here guards such an object; names what could be guarded.
    """
    # By the names of its classes' modules first: nothing is loaded for a host that it is none of,
    # which may be in the middle of its import.
    modules = {cls.__module__ for cls in type(obj).__mro__}
    for host in HOSTS:
        if host.has_pools and host.imported in modules and (adapter := host.load()).guards(obj):
            return adapter
    kinds = ", ".join(host.kind for host in HOSTS if host.has_pools)
    raise TypeError(
        f"guard() takes a pool of processes ({kinds}, or a subclass), not "
        f"{type(obj).__module__}.{type(obj).__qualname__}"
        + (": its workers are threads, which cannot be lost alone" if _has_threads(obj) else "")
    )


def _has_threads(obj: object) -> bool:
    return any(
        cls.__name__ in ("ThreadPool", "ThreadPoolExecutor", "InterpreterPoolExecutor")
        for cls in type(obj).__mro__
    )
