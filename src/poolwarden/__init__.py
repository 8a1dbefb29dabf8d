"""Guards process pools: a lost worker costs its own task an honest error.

Covers the public names, resolved when first used: every worker imports this
package, and must not pay for what it does not use. Besides, joblib is told of
its backend as soon as both are imported, in either order. Runs in any process.

PYTEST_DONT_REWRITE: pytest warns when a plugin's package was imported before
it could rewrite it, and at interpreter start this one is.
"""

from __future__ import annotations

from .on_import import when_imported as _when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
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

__version__ = "0.1.0"

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

_MODULES = {
    "activation.api": ("cancel", "guard", "unguard"),
    "activation.install": ("install", "uninstall"),
    "errors": (
        "ConfigurationError",
        "PayloadError",
        "PoolBrokenError",
        "PoolWardenError",
        "TaskExitError",
        "TaskTimeoutError",
        "WorkerLostError",
    ),
    "policy": ("Policy", "limits"),
    "records": ("EVENT_KINDS", "Event", "TaskInfo", "WorkerExit"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a module-level __getattr__ would make any name valid for type checkers

    def __getattr__(name):
        """Return a public name, importing the module that defines it."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def _make_backend(**options: object) -> object:
    """Return joblib's backend "poolwarden"; imports what it needs, which `import joblib` must not pay for."""
    from importlib import import_module

    return import_module(f"{__name__}.adapters.joblib").make_backend(**options)


_when_imported("joblib.parallel", lambda parallel: parallel.BACKENDS.setdefault("poolwarden", _make_backend))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
