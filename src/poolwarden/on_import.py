"""Tells when a module has been imported, without importing it.

Hosts are met when the program imports them: importing them here would cost
more than most programs. wrapt has such hooks too, but costs tens of ms to
import, and this module runs in every interpreter that has `POOLWARDEN` set,
and in every ``import poolwarden``. So it imports nothing but `sys`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Action = Callable[[ModuleType], object]

_waiting: dict[str, list[Action]] = {}


def when_imported(name: str, action: Action) -> None:
    """Call ``action(module)`` once the module `name` is imported: now if it is already.

    It runs in the thread that imports, before the import statement ends, and
    once. What it raises is logged: the user's import must not fail by it.
    """
    if name in sys.modules:
        _call(action, sys.modules[name])
        return
    _waiting.setdefault(name, []).append(action)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder:
    """Stands before the finders of ``sys.meta_path`` while a module is waited for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        # The finders before this one have been asked already.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Another loader, and a word when it has loaded; the module shows no trace of it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        for action in _waiting.pop(module.__spec__.name, ()):
            _call(action, module)
        if not _waiting and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


def _call(action: Action, module: ModuleType) -> None:
    try:
        action(module)
    except Exception:
        import logging

        logging.getLogger("poolwarden").warning(
            "poolwarden: pools of %s are not guarded", module.__name__, exc_info=True
        )


_finder: Any = _Finder()
