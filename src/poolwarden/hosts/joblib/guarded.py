"""joblib: the backend "poolwarden", and joblib's own backends by name.

A backend of joblib submits batches of tasks to a host: to the copy of loky
that joblib brings, or to a pool of `multiprocessing`. The host's adapter
guards that; `joblib_backends` has what is different for joblib. Here are the
options of "poolwarden", and what `install` puts in the place of joblib's own;
``import poolwarden`` makes the name known (into ``joblib.parallel.BACKENDS``:
only `joblib.parallel_config` looks a name up elsewhere too).
Importing this imports joblib, 1.3 or later.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import fields
from typing import Any, ClassVar, Final

from ...errors import ConfigurationError
from ...policy import Policy
from ...system.patches import Seam, attributes_of, check
from .backend import Guarded, OverLoky, OverPool

_parallel: Final[Any] = importlib.import_module("joblib.parallel")
_LokyBackend: Final[Any] = _parallel.LokyBackend
_MultiprocessingBackend: Final[Any] = _parallel.MultiprocessingBackend

#: The backend's name, as in ``Parallel(backend="poolwarden")``.
NAME: Final = "poolwarden"

_OPTIONS: Final = tuple(field.name for field in fields(Policy))
#: What joblib gives each backend at each call.
_GIVEN: Final = frozenset(
    {"prefer", "require", "verbose", "context", "temp_folder", "max_nbytes", "mmap_mode"}
)
#: What users may give its backends besides, from 1.5 on.
_EXTRA: Final = {
    "loky": {"idle_worker_timeout", "initializer", "initargs", "env", "prewarm"},
    "multiprocessing": {"maxtasksperchild", "initializer", "initargs", "prewarm"},
}
_TAKES_EXTRA: Final = "backend_kwargs" in inspect.signature(_parallel.ParallelBackendBase.__init__).parameters


class _WithOptions:
    """Takes our options; goes before the others."""

    inner: ClassVar[str]

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        self._options = self._take(options)
        given: dict[str, Any] = {
            "nesting_level": nesting_level,
            "inner_max_num_threads": inner_max_num_threads,
            **options,
        }
        super().__init__(**given)

    def _policy(self, kwargs: dict[str, Any]) -> tuple[Policy, dict[str, Any]]:
        given = {**self._options, **self._take(kwargs)}
        return (Guarded.installed or Policy()).merged(**given), given

    def _take(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return our options, checked, and take them out of `options`; those left must be joblib's."""
        ours = {name: options.pop(name) for name in _OPTIONS if name in options}
        Policy(**ours)
        extra = _EXTRA[self.inner] if _TAKES_EXTRA else set()
        unknown = sorted(set(options) - _GIVEN - extra)
        if unknown:
            raise ConfigurationError(
                f"the backend {NAME!r} has no option {', '.join(unknown)}; valid are "
                f"{', '.join((*_OPTIONS, 'inner'))}" + "".join(f", {name}" for name in sorted(extra))
            )
        return ours


class PoolwardenBackend(_WithOptions, OverLoky, _LokyBackend):  # type: ignore[misc]
    """joblib over loky, guarded task by task."""

    inner = "loky"


class PoolwardenPoolBackend(_WithOptions, OverPool, _MultiprocessingBackend):  # type: ignore[misc]
    """joblib over `multiprocessing.Pool`, guarded task by task."""

    inner = "multiprocessing"


_INNER: Final = {each.inner: each for each in (PoolwardenBackend, PoolwardenPoolBackend)}


def make_backend(*, inner: str = "loky", **options: Any) -> Any:
    """Return a new backend "poolwarden"; joblib calls this.

    Parameters
    ----------
    inner : {"loky", "multiprocessing"}
        Which of joblib's backends has the workers.
    **options
        Those of `Policy`, and joblib's own for that backend.

    Raises
    ------
    ConfigurationError
        There is no such option, or no such value; names the valid ones.
    """
    _check()
    if inner not in _INNER:
        raise ConfigurationError(f"inner must be {' or '.join(map(repr, _INNER))}, not {inner!r}.")
    return _INNER[inner](**options)


@functools.cache
def _check() -> None:
    check(JoblibBackends.all_seams(), "joblib")


def _named_as(bare: Any, ours: type) -> Any:
    """Return joblib's class with `ours` before it; its name is in joblib's messages."""
    return type(bare.__name__, (ours, bare), {"__module__": bare.__module__})


class JoblibBackends:
    """joblib's own backends, as a host: guarded by `install`, when they are asked for by name."""

    _ours: ClassVar[dict[str, Any]] = {
        "loky": _named_as(_LokyBackend, OverLoky),
        "multiprocessing": _named_as(_MultiprocessingBackend, OverPool),
    }
    _bare: ClassVar[dict[str, Any]] = {}

    @classmethod
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return the private names that are used, beside those of the inner hosts."""
        manager = importlib.import_module("joblib._memmapping_reducer").TemporaryResourcesManager
        return (
            *attributes_of(
                _parallel.Parallel,
                ("_id", "_aborting", "_ready_batches", "n_dispatched_batches", "n_dispatched_tasks"),
            ),
            *attributes_of(_parallel.BatchedCalls, ("items",)),
            *attributes_of(_parallel.BatchCompletionCallBack, ("parallel",)),
            *attributes_of(_LokyBackend, ("_workers", "parallel")),
            *attributes_of(_MultiprocessingBackend, ("_pool", "parallel")),
            *(Seam(_LokyBackend, name) for name in ("start_call", "terminate", "abort_everything")),
            Seam(manager, "_clean_temporary_resources", ("context_id", "allow_non_empty")),
            Seam(manager, "register_new_context", ("context_id",)),
            *attributes_of(manager, ("_cached_temp_folders",)),
        )

    @classmethod
    def install(cls, policy: Policy) -> None:
        """Have every task of joblib's process backends guarded from now on."""
        _check()
        Guarded.installed = policy
        for name, ours in cls._ours.items():
            there = _parallel.BACKENDS.get(name)
            if there is not None and there is not ours:
                cls._bare[name] = there
                _parallel.BACKENDS[name] = ours

    @classmethod
    def uninstall(cls) -> None:
        """Take `install` back, but for what somebody else has put there since."""
        Guarded.installed = None
        for name, bare in cls._bare.items():
            if _parallel.BACKENDS.get(name) is cls._ours[name]:
                _parallel.BACKENDS[name] = bare
        cls._bare.clear()
