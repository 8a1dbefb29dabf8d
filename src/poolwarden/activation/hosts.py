"""The hosts that can be guarded, in one list.

An adapter is loaded only for an object of its host, or for `install` once the
host is imported.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Host:
    """Where a host is, and where its adapter.

    Attributes
    ----------
    imported : str
        The host's module; the classes of its objects, or those that these inherit, say that they are of it.
    adapter : str
        ``module:name`` of the adapter's class, or of a function that returns
        it, in a module of `poolwarden.adapters`.
    kind : str
        What users call it, for error messages.
    distribution : str
        What is installed with it; empty for the standard library.
    has_pools : bool
        Whether there is something to give to `guard`, or only to `install`.
    """

    imported: str
    adapter: str
    kind: str
    distribution: str = ""
    has_pools: bool = True

    def load(self) -> Any:
        """Return the adapter's class."""
        module, _, name = self.adapter.partition(":")
        found = getattr(importlib.import_module(f"poolwarden.adapters.{module}"), name)
        return found if isinstance(found, type) else found()


HOSTS: Final = (
    Host("multiprocessing.pool", "pool:MultiprocessingPool", "multiprocessing.Pool"),
    Host(
        "concurrent.futures.process",
        "executor:FuturesExecutor",
        "concurrent.futures.ProcessPoolExecutor",
    ),
    Host("loky.process_executor", "loky:for_loky", "loky.ProcessPoolExecutor", "loky"),
    Host(
        "joblib.externals.loky.process_executor",
        "loky:for_joblib",
        "joblib.externals.loky.ProcessPoolExecutor",
        "joblib",
    ),
    Host("joblib.parallel", "joblib:JoblibBackends", "joblib.Parallel", "joblib", has_pools=False),
    Host("multiprocess.pool", "multiprocess:MultiprocessPool", "multiprocess.Pool", "multiprocess"),
    Host("multiprocessing.process", "process:MultiprocessingProcess", "multiprocessing.Process"),
    Host(
        "multiprocess.process",
        "multiprocess_process:MultiprocessProcess",
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
