"""`POOLWARDEN` at interpreter start: guards the pools of a program that says nothing of it.

Standard library only, and little of it: this runs in every interpreter that
has the variable set, and most make no pool. Each host's constructors are
replaced by plain functions when the host is imported; the first one that is
called installs the guard, and only then wrapt and the rest are imported.

PYTEST_DONT_REWRITE: imported before pytest's plugins, so it cannot be rewritten.
"""

from __future__ import annotations

import os
import sys

from ..on_import import when_imported
from ..options import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Final

VARIABLE: Final = "POOLWARDEN"
#: The bad value that a process of this tree has complained of already.
_COMPLAINED: Final = "POOLWARDEN_COMPLAINED"

#: What makes pools, by the module that defines it.
CONSTRUCTORS: Final = {
    "multiprocessing.pool": ("Pool",),
    "concurrent.futures.process": ("ProcessPoolExecutor",),
    "loky.process_executor": ("ProcessPoolExecutor",),
    "joblib.externals.loky.process_executor": ("ProcessPoolExecutor",),
    # These choose a backend, before it makes a pool.
    "joblib.parallel": ("Parallel", "parallel_config"),
}

_started = False
_options: dict[str, Any] | None = None
_replaced: list[tuple[Any, Any]] = []


def start() -> None:
    """Prepare this process as `POOLWARDEN` says; once, however often it is called.

    A value that cannot be read is told on stderr, by the first process of a
    tree that sees it, and means off.
    """
    global _started, _options
    if _started:
        return
    _started = True
    text = os.environ.get(VARIABLE, "")
    try:
        _options = read(text)
    except ValueError as error:
        if os.environ.get(_COMPLAINED) != text:
            os.environ[_COMPLAINED] = text
            _complain(error)
    if _options is not None:
        for module in CONSTRUCTORS:
            when_imported(module, _prepare)


def stand_down() -> None:
    """Put all constructors back: the guard is installed, or is to be taken back."""
    global _options
    _options = None
    while _replaced:
        cls, bare = _replaced.pop()
        cls.__init__ = bare


def _prepare(module: ModuleType) -> None:
    """Have the guard installed when the first pool of this host is made."""
    if _options is None:
        return
    for name in CONSTRUCTORS[module.__name__]:
        cls = getattr(module, name)
        bare = cls.__init__
        cls.__init__ = _first_call(cls, bare)
        _replaced.append((cls, bare))


def _first_call(cls: Any, bare: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it stands in for one
        _install()
        cls.__init__(self, *args, **kwargs)

    # What `functools.wraps` does, which is not imported at start.
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(__init__, name, getattr(bare, name))
    __init__.__wrapped__ = bare  # type: ignore[attr-defined]
    return __init__


def _install() -> None:
    """Install the guard in the place of the replacements; a failure is told, and the pool is made bare."""
    options = _options
    stand_down()
    if options is None:
        # Another thread was quicker.
        return
    try:
        from .install import install

        install(**options)
    except Exception as error:
        _complain(error)


def _complain(error: Exception) -> None:
    if sys.stderr is not None:
        print(f"poolwarden: {error} Nothing is guarded.", file=sys.stderr)
