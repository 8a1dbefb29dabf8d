"""How the adapter of each host in the `registry` is loaded, and which host an object is of.

An adapter is loaded only for an object of its host, or for `install` once the
host is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .registry import HOSTS, Host

if TYPE_CHECKING:
    from collections.abc import Callable


def load(host: Host) -> Any:
    """Import a host's adapter, and return its class."""
    return LOADERS[host.module]()


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


LOADERS: Final[dict[str, Callable[[], Any]]] = {
    "multiprocessing.pool": _pool,
    "concurrent.futures.process": _executor,
    "loky.process_executor": _loky,
    "joblib.externals.loky.process_executor": _loky_of_joblib,
    "joblib.parallel": _joblib,
    "multiprocess.pool": _multiprocess,
    "multiprocessing.process": _process,
    "multiprocess.process": _multiprocess_process,
}
"""What imports an adapter, by the host's module."""


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
        if host.has_pools and host.module in modules and (adapter := load(host)).guards(obj):
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
