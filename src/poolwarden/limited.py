"""The callable that `poolwarden.limits` returns.

Covers what travels with the task; the check of the options is in
`poolwarden.policy`. Unpickled in workers as well, so it imports nothing: not
even `typing`, and `functools` only by hand-written equivalents.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Limited:
    """A function with limits of its own; calling it calls the function.

    Parameters
    ----------
    func : callable
        The function; kept as ``__wrapped__``.
    overrides : dict
        Options of the pool's policy to replace for this task: only those given.
    """

    def __init__(self, func: Callable[..., Any], overrides: dict[str, Any]) -> None:
        self.__wrapped__ = func
        self.overrides = overrides
        # `functools.update_wrapper` also copies ``__dict__``: that would let the function's own attributes
        # overwrite ours.
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            try:
                value = getattr(func, name)
            except Exception:
                # A lazy proxy outside of its context raises anything.
                continue
            setattr(self, name, value)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[type[Limited], tuple[Callable[..., Any], dict[str, Any]]]:
        return Limited, (self.__wrapped__, self.overrides)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.overrides.items())
        return f"limits({self.__wrapped__!r}{options})"
