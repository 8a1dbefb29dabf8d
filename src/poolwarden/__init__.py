"""Guards process pools: a lost worker costs its own task an honest error.

Covers the public names, resolved when first used: every worker imports this
package, and must not pay for what it does not use. Besides, joblib is told of
its backend as soon as both are imported, in either order. Runs in any process.

PYTEST_DONT_REWRITE: pytest warns when a plugin's package was imported before
it could rewrite it, and at interpreter start this one is.
"""

from __future__ import annotations

import sys as _sys

from .on_import import when_imported as _when_imported

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
    return sorted({*globals(), *__all__})
