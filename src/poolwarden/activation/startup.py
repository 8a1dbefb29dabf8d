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
from _thread import RLock

from ..on_import import when_imported
from ..options import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, Final

VARIABLE: Final = "POOLWARDEN"
REPORT: Final = "POOLWARDEN_REPORT"
#: The bad value that a process of this tree has complained of already.
_COMPLAINED: Final = "POOLWARDEN_COMPLAINED"

#: What makes pools, by the module that defines it.
CONSTRUCTORS: Final = {
    "multiprocessing.pool": ("Pool",),
    "multiprocess.pool": ("Pool",),
    "concurrent.futures.process": ("ProcessPoolExecutor",),
    "loky.process_executor": ("ProcessPoolExecutor",),
    "joblib.externals.loky.process_executor": ("ProcessPoolExecutor",),
    # These choose a backend, before it makes a pool.
    "joblib.parallel": ("Parallel", "parallel_config"),
}

_text: str | None = None
_options: dict[str, Any] | None = None
_replaced: list[tuple[Any, Any, Any]] = []
_awaiting = False
#: Held while the first pool has the guard installed; the second waits for it.
_installing = RLock()


def start() -> None:
    """Prepare this process as `POOLWARDEN` says; again only if it has changed, for ``poolwarden run``.

    A value that cannot be read is told on stderr, by the first process of a
    tree that sees it, and means off.
    """
    global _text, _options, _awaiting
    # A report of what is not guarded would never have anything to tell.
    text = os.environ.get(VARIABLE, "1" if os.environ.get(REPORT) else "")
    if text == _text:
        return
    _text, _options = text, None
    try:
        _options = read(text)
    except ValueError as error:
        from ..plaintext import SHOWN_MAX

        # A part of it is enough: a text that just fits would not fit under this longer name, and no program
        # could be started any more.
        told = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]} {len(text)}"
        if os.environ.get(_COMPLAINED) != told:
            os.environ[_COMPLAINED] = told
            _complain(error)
    if _options is not None and not _awaiting:
        _awaiting = True
        for module in CONSTRUCTORS:
            when_imported(module, _prepare)


def waiting() -> dict[str, Any] | None:
    """Return the options that the first pool will be guarded with; None if no guard is waiting for it."""
    return _options


def stand_down() -> None:
    """Put all constructors back: the guard is installed, or is to be taken back."""
    global _options
    _options = None
    while _replaced:
        cls, bare, ours = _replaced.pop()
        # Else another tool has patched it since, and keeps ours, which passes everything through.
        if vars(cls)["__init__"] is ours:
            cls.__init__ = bare


def _prepare(module: ModuleType) -> None:
    if _options is not None:
        prepare(module, _install)


def prepare(module: ModuleType, install: Callable[[], None]) -> None:
    """Have `install` called when the first pool of this host is made; it ends with `stand_down`.

    Nothing is imported and no lock is waited for: the caller may be in the
    middle of an import, and hold the locks of that.
    """
    for name in CONSTRUCTORS[module.__name__]:
        cls = getattr(module, name)
        bare = cls.__init__
        cls.__init__ = _first_call(cls, bare, install)
        _replaced.append((cls, bare, cls.__init__))


def _first_call(cls: Any, bare: Any, install: Callable[[], None]) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it stands in for one
        if _starts_no_process(self, args, kwargs):
            bare(self, *args, **kwargs)
            return
        outermost = vars(cls)["__init__"] is __init__
        waiting = any(ours is __init__ for _, _, ours in _replaced)
        # Pools of other threads wait until that is done, or they would be bare.
        with _installing:
            install()
        if outermost:
            if vars(cls)["__init__"] is __init__:
                # It came when the others had been put back already.
                cls.__init__ = bare
            cls.__init__(self, *args, **kwargs)
            return
        # Called from another tool's patch: the class's own would come back to here for ever.
        bare(self, *args, **kwargs)
        if waiting:
            _guard_late(self)

    # What `functools.wraps` does, which is not imported at start.
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(__init__, name, getattr(bare, name))
    __init__.__wrapped__ = bare  # type: ignore[attr-defined]
    return __init__


def _starts_no_process(obj: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    kinds = {each.__name__ for each in type(obj).__mro__}
    if "Parallel" in kinds:
        # joblib runs the tasks itself then. If `parallel_config` has said otherwise, that was met before.
        return (args[0] if args else kwargs.get("n_jobs")) in (None, 1)
    return "ThreadPool" in kinds


def _install() -> None:
    """Install the guard in the place of the replacements; a failure is told, and the pool is made bare."""
    options = _options
    if options is None:
        # Another thread was quicker.
        return
    try:
        from .install import install

        install(**options)
        from ..core.tally import tell_at_exit
        from ..report import written

        tell_at_exit(options.get("losses"), written)
    except Exception as error:
        stand_down()
        _complain(error)


def _guard_late(pool: Any) -> None:
    """Guard the first pool, whose construction had begun when the guard was installed."""
    try:
        from ..hosts.registry import adapter_for
        from .install import followed

        policy = followed()
        if policy is not None:
            adapter_for(pool).guard_object(pool, policy)
    except TypeError:
        # What chooses joblib's backend is no pool.
        pass
    except Exception as error:
        _complain(error)


def _in_forked_process() -> None:
    global _installing
    # A thread that does not exist here may have held it.
    _installing = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)


def _complain(error: Exception) -> None:
    from ..plaintext import visible

    if sys.stderr is None:
        return
    try:  # noqa: SIM105 - contextlib is not imported at start
        print(visible(f"poolwarden: {error} Nothing is guarded."), file=sys.stderr)
    except (OSError, ValueError):
        # It is full, or closed: at start-up that would end the interpreter.
        pass
