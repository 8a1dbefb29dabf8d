"""Guards process pools: a lost or stuck worker costs its own task an honest error.

An example::

    from multiprocessing import Pool

    import poolwarden

    with poolwarden.guard(Pool(4), timeout=30) as pool:  # the same pool, guarded
        results = pool.map(work, items)

A task whose worker is killed, crashes or exits raises `WorkerLostError`, one
that runs longer than 30 seconds `TaskTimeoutError`; the other tasks and the
pool go on. With ``losses="return"`` the error takes the place of the result.
Without a change to the program: ``POOLWARDEN=1 python program.py``, or with
options ``POOLWARDEN=timeout=30,retries=1``. In joblib: ``backend="poolwarden"``.

What there is to call; ``help(poolwarden.guard)`` tells the options of all:

guard(pool, ...)
    Guard a `multiprocessing.Pool`, a `ProcessPoolExecutor`, an executor of
    loky or a `Process` in place, and return it.
unguard(pool)
    Leave it to itself again.
limits(func, timeout=..., grace=..., retries=...)
    Give a function limits of its own, for any way of submitting it.
cancel(handle)
    Stop one task, running or not.
install(...), uninstall()
    Guard every pool that is made from now on, and take that back.
Policy(...), Policy.from_env(text)
    The options as an object.

What may be raised; ``help(poolwarden.PoolWardenError)`` tells the attributes:

PoolWardenError
    WorkerLostError     the worker died while it held the task
    TaskTimeoutError    the task ran longer than its timeout, and was stopped
    TaskExitError       the task raised SystemExit or KeyboardInterrupt
    PayloadError        call, result or exception could not be unpickled
    PoolBrokenError     the pool cannot go on
    ConfigurationError  an option has a value that cannot be used

What errors and ``on_event`` tell with: `TaskInfo` (``error.task``),
`WorkerExit` (``error.exit``), `Event`, whose kinds are `EVENT_KINDS`.

In a shell: ``python -m poolwarden --help``. Faults for tests: the module
`poolwarden.testing`. For pytest itself: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import sys as _sys

from .on_import import when_imported as _when_imported

# The public names are resolved when they are first used: every worker imports this package, and must not
# pay for what it does not use. Besides, joblib is told of its backend as soon as both are imported, in
# either order. Runs in any process. PYTEST_DONT_REWRITE: pytest warns when a plugin's package was imported
# before it could rewrite it, and at interpreter start this one is.

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .activation.api import cancel, guard, unguard
    from .activation.install import install, uninstall
    from .errors import (
        ConfigurationError,
        PayloadError,
        PoolBrokenError,
        PoolWardenError,
        TaskExitError,
        TaskTimeoutError,
        WorkerLostError,
    )
    from .policy import Policy, limits
    from .records import EVENT_KINDS, Event, TaskInfo, WorkerExit
    from .version import __version__ as __version__

__all__ = [
    "EVENT_KINDS",
    "ConfigurationError",
    "Event",
    "PayloadError",
    "Policy",
    "PoolBrokenError",
    "PoolWardenError",
    "TaskExitError",
    "TaskInfo",
    "TaskTimeoutError",
    "WorkerExit",
    "WorkerLostError",
    "cancel",
    "guard",
    "install",
    "limits",
    "unguard",
    "uninstall",
]


# Plain imports, one function each: freezers (PyInstaller, cx_Freeze, Nuitka) read the code, and take along
# only modules that an import statement names.


def _api() -> object:
    from .activation import api

    return api


def _install() -> object:
    from .activation import install

    return install


def _errors() -> object:
    from . import errors

    return errors


def _policy() -> object:
    from . import policy

    return policy


def _records() -> object:
    from . import records

    return records


def _version() -> object:
    from . import version

    return version


_NAMES = {
    _api: ("cancel", "guard", "unguard"),
    _install: ("install", "uninstall"),
    _errors: (
        "ConfigurationError",
        "PayloadError",
        "PoolBrokenError",
        "PoolWardenError",
        "TaskExitError",
        "TaskTimeoutError",
        "WorkerLostError",
    ),
    _policy: ("Policy", "limits"),
    _records: ("EVENT_KINDS", "Event", "TaskInfo", "WorkerExit"),
    _version: ("__version__",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # a module-level __getattr__ would make any name valid for type checkers

    def __getattr__(name):
        """Return a public name, importing the module that defines it."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(_MODULE_OF[name](), name)
        globals()[name] = value
        return value


def _make_backend(**options: Any) -> object:
    """Return joblib's backend "poolwarden"; imports what it needs, which `import joblib` must not pay for."""
    from .activation import reporting  # noqa: F401 - the report looks on
    from .hosts.joblib.guarded import make_backend

    return make_backend(**options)


_when_imported("joblib.parallel", lambda parallel: parallel.BACKENDS.setdefault("poolwarden", _make_backend))

if getattr(_sys, "frozen", False):
    # A frozen program has no start-up files, which do this in others. Its workers come by here as well.
    from .activation.startup import start as _start

    _start()


def __dir__() -> list[str]:
    """Return the public names. For `help` there are none: it would print over a thousand lines on them.

    `pydoc` asks for the names by `inspect`, and shows each class with all that it inherits. What it shows
    without them is the text above, which tells each name in a line.
    """
    if _is_asked_by_help():
        return ["__version__"]
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})


def _is_asked_by_help() -> bool:
    try:
        frame = _sys._getframe(2)
        for _ in range(3):
            if frame.f_globals.get("__name__") == "pydoc" and frame.f_code.co_name == "docmodule":
                return True
            assert frame.f_back is not None
            frame = frame.f_back
    except (AssertionError, AttributeError, ValueError):
        pass
    return False
