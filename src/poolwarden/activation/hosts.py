"""The hosts that can be guarded, in one list.

A host's module is imported only when the host itself is imported already: an
object of a pool class cannot exist before.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Host:
    """Where a host is, and where its adapter.

    Attributes
    ----------
    imported : str
        The host's module; an object of the host can exist only if it is in ``sys.modules``.
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
    for host in HOSTS:
        if host.has_pools and host.imported in sys.modules and (adapter := host.load()).guards(obj):
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
