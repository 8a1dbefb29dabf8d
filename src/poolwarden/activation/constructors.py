"""Constructors of pools that wait for their first call, to have the guard installed then.

Each host's constructors are replaced by plain functions once the host is
imported; the first one that is called installs the guard, and only then wrapt
and the rest are imported. What installs it is the caller's: the variable
(`startup`) and `install` come in from above.

Standard library only, and little of it: this runs in every interpreter that
has `POOLWARDEN` set, and most make no pool.

PYTEST_DONT_REWRITE: imported before pytest's plugins, so it cannot be rewritten.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

#: The options that the first pool will have the guard installed with; None if no variable asks for that.
_pending: dict[str, Any] | None = None
_replaced: list[tuple[Any, Any, Any]] = []
#: Held while the first pool has the guard installed; the second waits for it.
_installing = RLock()


def pending_options() -> dict[str, Any] | None:
    """Return the options that the first pool will be guarded with; None if no guard is waiting for it."""
    return _pending


def wait_for_first_pool(options: dict[str, Any] | None) -> None:
    """Have these options wait for the first pool; None if none are to."""
    global _pending
    _pending = options


def stand_down() -> None:
    """Put all constructors back: the guard is installed, or is to be taken back."""
    wait_for_first_pool(None)
    while _replaced:
        cls, bare, ours = _replaced.pop()
        # If another tool has patched it since, that patch stays, and keeps ours, which passes everything
        # through.
        if vars(cls)["__init__"] is ours:
            cls.__init__ = bare


def arm(
    module: ModuleType,
    names: tuple[str, ...],
    install: Callable[[], None],
    guard_late: Callable[[Any], None],
) -> None:
    """Have `install` called when the first pool of a host is made; it ends with `stand_down`.

    Nothing is imported and no lock is waited for: the caller may be in the
    middle of an import, and hold the locks of that.

    Parameters
    ----------
    module : module
        The host's.
    names : tuple of str
        The classes in it that make pools.
    install : callable
        Puts the guard in place.
    guard_late : callable
        Guards a pool whose construction had begun before `install` was called.
    """
    for name in names:
        cls = getattr(module, name)
        bare = cls.__init__
        cls.__init__ = _first_call(cls, bare, install, guard_late)
        _replaced.append((cls, bare, cls.__init__))


def _first_call(cls: Any, bare: Any, install: Callable[[], None], guard_late: Callable[[Any], None]) -> Any:
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
            guard_late(self)

    # This is what `functools.wraps` does, which is not imported at start.
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


def complain(error: Exception) -> None:
    """Say on stderr, in one line, that nothing is guarded, and why."""
    from ..plaintext import visible

    if sys.stderr is None:
        return
    try:  # noqa: SIM105 - contextlib is not imported at start
        print(visible(f"poolwarden: {error} Nothing is guarded."), file=sys.stderr)
    except (OSError, ValueError):
        # It is full, or closed: at start-up that would end the interpreter.
        pass


def _in_forked_process() -> None:
    global _installing
    # A thread that does not exist here may have held it.
    _installing = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
