"""The options by name: which values are valid, and how `POOLWARDEN` spells them.

Pure text and numbers. Imports nothing but `sys`, since it is read in every
interpreter that starts with the variable set.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

LOSSES: Final = ("raise", "return")

OFF: Final = ("", "0", "off", "false", "no")
ON: Final = ("1", "on", "true", "yes")

_YES_OR_NO: Final = {**dict.fromkeys(OFF[1:], False), **dict.fromkeys(ON, True)}

PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "timeout": float,
    "grace": float,
    "retries": int,
    "losses": str,
    "startup_timeout": float,
    "cancel_running": lambda text: _YES_OR_NO[text],
}
"""The options that a text can spell, and what makes a value of it."""


def problem(name: str, value: object) -> str | None:
    """Return what is wrong with the value of an option, naming the valid ones; None if it is valid."""
    valid, is_valid = _VALID[name]
    if is_valid(usual(value)):
        return None
    from .plaintext import shown

    too_large = name == "retries" and type(value) is int and value > 0
    largest = f"; the largest is {sys.maxsize}" if too_large else ""
    return f"{name} must be {valid}, not {shown(value)}{largest}."


def usual(value: Any) -> Any:
    """Return a number of another kind, such as one of numpy's, as an int or float; else `value` itself.

    It is kept, and travels to workers: they need not import what it is of.
    """
    if type(value) in (int, float, bool, str, type(None)):
        return value
    try:
        if not isinstance(value, (int, float)):
            from numbers import Integral, Real

            if not isinstance(value, Real):
                return value
            return int(value) if isinstance(value, Integral) else float(value)
        return int(value) if isinstance(value, int) else float(value)
    except Exception:  # a fraction too large for a float, or an odd class
        return value


def read(text: str) -> dict[str, Any] | None:
    """Return the options in the text of `POOLWARDEN`, None for off; see `Policy.from_env`.

    Raises
    ------
    ValueError
        Not readable, or a value is not valid; the text names what is.
    """
    word = text.strip().lower()
    if word in OFF:
        return None
    options: dict[str, Any] = {}
    if word in ON:
        return options
    for part in word.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in PARSERS or name in options:
            raise _unreadable(text)
        try:
            options[name] = PARSERS[name](value)
        except (ValueError, KeyError):
            raise _unreadable(text) from None
    for name, value in options.items():
        if (why := problem(name, value)) is not None:
            raise ValueError(why)
    return options


def spell(options: dict[str, Any]) -> str:
    """Return the text that `read` takes for these options; None and callables have none and are left out."""
    values = ((name, options.get(name)) for name in PARSERS)
    given = [f"{name}={value}" for name, value in values if value is not None and not callable(value)]
    return ",".join(given) or "1"


def _unreadable(text: str) -> ValueError:
    from .plaintext import shortened

    return ValueError(
        f"POOLWARDEN={shortened(repr(text))} cannot be read. Valid are 1 or on, 0 or off, or options such as "
        f"timeout=30,retries=1; the options are {', '.join(PARSERS)}."
    )


def _is_number(value: object) -> bool:
    """Return whether `value` is an int or float; True and False are not meant."""
    return type(value) in (int, float)


def _is_timeout(value: Any) -> bool:
    """Return whether `value` is None or a usable duration; NaN compares false."""
    return value is None or (_is_number(value) and 0 < value <= sys.float_info.max)


def _is_grace(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= sys.float_info.max


def _is_count(value: Any) -> bool:
    # One with more digits than Python prints could not even be shown.
    return type(value) is int and 0 <= value <= sys.maxsize


def _is_losses(value: Any) -> bool:
    return callable(value) or (isinstance(value, str) and value in LOSSES)


_TIMEOUT: Final = "None or a finite number of seconds above 0", _is_timeout
_VALID: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "timeout": _TIMEOUT,
    "startup_timeout": _TIMEOUT,
    "grace": ("a finite number of seconds, 0 or more", _is_grace),
    "retries": ("a whole number, 0 or more", _is_count),
    "losses": ("'raise' or 'return', or a callable that takes the error", _is_losses),
    "cancel_running": ("True or False", lambda value: isinstance(value, bool)),
    "on_event": (
        "None or a callable that takes one Event",
        lambda value: value is None or callable(value),
    ),
}
