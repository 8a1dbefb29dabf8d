"""The options of a guarded pool: checked once, then only read.

Covers the values, their checks, `POOLWARDEN`'s grammar, and the per-task
overrides of `limits`. Does not apply any of them. Pure; runs in the parent.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from .errors import ConfigurationError
from .limited import Limited
from .records import Event

__all__ = ["Policy", "limits", "overrides_of"]

LOSSES: Final = ("raise", "return")

_OFF: Final = ("", "0", "off", "false", "no")
_ON: Final = ("1", "on", "true", "yes")
_NOT_GIVEN: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Policy:
    """What a guarded pool does about lost workers and long tasks.

    Parameters
    ----------
    timeout : float, optional
        Seconds one task (one item of a chunk or batch) may run, counted from
        its start in the worker. None: no limit.
    grace : float
        Seconds between `TaskTimeoutError` raised inside the task and SIGKILL;
        0: SIGKILL at once.
    retries : int
        How often a task lost with its worker is run again. A task that raised
        is never run again.
    losses : {"raise", "return"}
        Whether a lost or timed-out item of a call raises, or its error object
        takes its place in the result.
    startup_timeout : float, optional
        Seconds a worker may take to get through its initializer. None: no
        limit.
    on_event : callable, optional
        Called with each `Event`, in a thread of poolwarden.

    Raises
    ------
    ConfigurationError
        A value is of the wrong kind or out of range; the text names the valid
        ones.
    """

    timeout: float | None = None
    grace: float = 0.0
    retries: int = 0
    losses: str = "raise"
    startup_timeout: float | None = None
    on_event: Callable[[Event], object] | None = None

    def __post_init__(self) -> None:
        _check_timeout("timeout", self.timeout)
        _check_timeout("startup_timeout", self.startup_timeout)
        if not _is_number(self.grace) or not 0 <= self.grace <= sys.float_info.max:
            raise _invalid("grace", self.grace, "a finite number of seconds, 0 or more")
        if not isinstance(self.retries, int) or isinstance(self.retries, bool) or self.retries < 0:
            raise _invalid("retries", self.retries, "a whole number, 0 or more")
        if not isinstance(self.losses, str) or self.losses not in LOSSES:
            raise _invalid("losses", self.losses, "'raise' or 'return'")
        if self.on_event is not None and not callable(self.on_event):
            raise _invalid("on_event", self.on_event, "None or a callable that takes one Event")

    def merged(self, **overrides: Any) -> Policy:
        """Return this policy with some options replaced, checked again.

        Raises
        ------
        ConfigurationError
            A value is not valid.
        TypeError
            There is no such option.
        """
        return replace(self, **overrides) if overrides else self

    @classmethod
    def from_env(cls, text: str) -> Policy | None:
        """Return the policy that the text of `POOLWARDEN` asks for.

        Parameters
        ----------
        text : str
            ``1``, ``on``, ``true``, ``yes``: the defaults. ``0``, ``off``,
            ``false``, ``no``, empty: off. Else options, as in
            ``timeout=30,retries=1``. Upper or lower case; never evaluated.

        Returns
        -------
        Policy or None
            None means off.

        Raises
        ------
        ConfigurationError
            Anything else; the text names the valid options.
        """
        word = text.strip().lower()
        if word in _OFF:
            return None
        if word in _ON:
            return cls()
        options: dict[str, Any] = {}
        for part in word.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in _PARSERS or name in options:
                raise _unreadable(text)
            try:
                options[name] = _PARSERS[name](value)
            except ValueError:
                raise _unreadable(text) from None
        return cls(**options)


def limits(
    func: Callable[..., Any],
    *,
    timeout: float | None = _NOT_GIVEN,
    grace: float = _NOT_GIVEN,
    retries: int = _NOT_GIVEN,
) -> Limited:
    """Return `func` with limits of its own, for any way of submitting it.

    In a guarded pool the options given here replace those of the pool for
    tasks that call the result; anywhere else it is a plain call of `func`.

    Parameters
    ----------
    func : callable
        What to call. The result pickles if `func` does; so bind the result to
        another name, or `pickle` finds the result where it looks for `func`.
    timeout, grace, retries
        As in `Policy`; ``timeout=None`` means no limit. Not given: the pool's.

    Raises
    ------
    ConfigurationError
        As for `Policy`.
    TypeError
        `func` cannot be called.
    """
    if not callable(func):
        raise TypeError(f"limits() needs a callable, not {type(func).__name__}")
    given: dict[str, Any] = {"timeout": timeout, "grace": grace, "retries": retries}
    overrides = {name: value for name, value in given.items() if value is not _NOT_GIVEN}
    Policy(**overrides)
    return Limited(func, overrides)


def overrides_of(func: object) -> dict[str, Any]:
    """Return the options that `limits` gave to `func`, outermost first to win.

    Looks through `functools.partial` and nested `limits`; {} for anything else.
    """
    found: dict[str, Any] = {}
    while True:
        if isinstance(func, Limited):
            found = {**func.overrides, **found}
            func = func.__wrapped__
        elif isinstance(func, functools.partial):
            func = func.func
        else:
            return found


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "timeout": float,
    "grace": float,
    "retries": int,
    "losses": str,
    "startup_timeout": float,
}


def _is_number(value: object) -> bool:
    """Return whether `value` is an int or float; True and False are not meant."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_timeout(name: str, value: float | None) -> None:
    """Refuse what is neither None nor a usable duration; NaN compares false."""
    if value is None:
        return
    if not _is_number(value) or not 0 < value <= sys.float_info.max:
        raise _invalid(name, value, "None or a finite number of seconds above 0")


def _invalid(name: str, value: object, valid: str) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {valid}, not {value!r}.")


def _unreadable(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"POOLWARDEN={text!r} cannot be read. Valid are 1 or on, 0 or off, or options such as "
        f"timeout=30,retries=1; the options are {', '.join(_PARSERS)}."
    )
