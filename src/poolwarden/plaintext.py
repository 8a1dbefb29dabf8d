"""Text from elsewhere, made fit to be shown: names of functions and files, values of options.

Pure. Imports nothing, since it is used in every interpreter that starts with
`POOLWARDEN` set.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

#: Characters of a value, or of a name, that are shown.
SHOWN_MAX: Final = 200


def visible(text: str, keep: str = "") -> str:
    r"""Return `text` with all that is not printable as escapes, such as ``\x1b``.

    A terminal obeys control characters, in the name of a function as well: it
    would hide lines, or write others. Lone surrogates cannot be written at all.

    Parameters
    ----------
    text : str
        From anywhere.
    keep : str
        Characters that are left as they are, such as a newline.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def shortened(text: str) -> str:
    """Return `text`, or its beginning and how long it is."""
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... ({len(text)} characters)"


def shown(value: object) -> str:
    """Return `repr` of a value in one short line; its type if it has none."""
    try:
        return visible(shortened(repr(value)))
    except Exception:  # of its own
        if isinstance(value, int):
            return f"one of {value.bit_length()} bits"  # more digits than Python prints
        return visible(f"an object of type {type(value).__name__} that cannot be shown")
