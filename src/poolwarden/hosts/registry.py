"""The hosts that can be guarded, each named once. Whoever must know a host's modules reads this table.

It names modules and imports none: an interpreter that has `POOLWARDEN` set
reads it at its start, so there is no dataclass here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class Host:
    """What is to be known of a host before its adapter is loaded.

    Attributes
    ----------
    module : str
        The host's module; the classes of its objects, or those that these inherit, say that they are of it.
    kind : str
        What users call it, for error messages.
    distribution : str
        What is installed with it; empty for the standard library.
    constructors : tuple of str
        The classes in the module that make pools, or choose what makes them; empty if `install` leaves
        the host alone.
    own_files : tuple of str
        Ends of the names of the host's files through which tasks are submitted: no line of them is the
        user's.
    has_pools : bool
        Whether there is something to give to `guard`, or only to `install`.
    """

    __slots__ = ("constructors", "distribution", "has_pools", "kind", "module", "own_files")

    def __init__(
        self,
        module: str,
        kind: str,
        distribution: str = "",
        *,
        constructors: tuple[str, ...] = (),
        own_files: tuple[str, ...] = (),
        has_pools: bool = True,
    ) -> None:
        self.module = module
        self.kind = kind
        self.distribution = distribution
        self.constructors = constructors
        self.own_files = own_files
        self.has_pools = has_pools


HOSTS: Final = (
    Host(
        "multiprocessing.pool",
        "multiprocessing.Pool",
        constructors=("Pool",),
        own_files=("multiprocessing/pool.py",),
    ),
    Host(
        "concurrent.futures.process",
        "concurrent.futures.ProcessPoolExecutor",
        constructors=("ProcessPoolExecutor",),
        own_files=("concurrent/futures/process.py", "concurrent/futures/_base.py", "asyncio/base_events.py"),
    ),
    Host(
        "loky.process_executor",
        "loky.ProcessPoolExecutor",
        "loky",
        constructors=("ProcessPoolExecutor",),
        own_files=("loky/process_executor.py", "loky/reusable_executor.py", "loky/_base.py"),
    ),
    Host(
        "joblib.externals.loky.process_executor",
        "joblib.externals.loky.ProcessPoolExecutor",
        "joblib",
        constructors=("ProcessPoolExecutor",),
        own_files=("loky/process_executor.py", "loky/reusable_executor.py", "loky/_base.py"),
    ),
    Host(
        "joblib.parallel",
        "joblib.Parallel",
        "joblib",
        # These choose a backend, before it makes a pool.
        constructors=("Parallel", "parallel_config"),
        # scikit-learn calls joblib for others, too.
        own_files=("joblib/parallel.py", "joblib/_parallel_backends.py", "sklearn/utils/parallel.py"),
        has_pools=False,
    ),
    Host(
        "multiprocess.pool",
        "multiprocess.Pool",
        "multiprocess",
        constructors=("Pool",),
        own_files=("multiprocess/pool.py",),
    ),
    Host("multiprocessing.process", "multiprocessing.Process"),
    Host("multiprocess.process", "multiprocess.Process", "multiprocess"),
)

#: The constructors of the hosts that `install` changes, by module.
CONSTRUCTORS: Final = {host.module: host.constructors for host in HOSTS if host.constructors}


def own_files(*modules: str) -> tuple[str, ...]:
    """Return the `Host.own_files` of these hosts, each once."""
    return tuple(dict.fromkeys(file for host in HOSTS if host.module in modules for file in host.own_files))
