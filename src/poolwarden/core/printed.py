"""What a traceback says that was printed in a worker.

Pure; the parent process, any thread.
"""

from __future__ import annotations

from typing import Final

from ..plaintext import shortened, visible

_HEAD: Final = "Traceback (most recent call last):"


def raised(text: str | None) -> str:
    """Return what a printed traceback ends in, ``"ValueError: no licence"``, in one line; "" if unknown."""
    lines = (text or "").rpartition(_HEAD)[2].splitlines()
    seen_frame = False
    for line in lines:
        if line.startswith(" "):
            seen_frame = True
        elif seen_frame and line.strip():
            return visible(shortened(line.strip()))
    return ""


def type_raised(text: str | None) -> str:
    """Return the name of the type alone: a message may hold what nobody may read in a log."""
    return raised(text).partition(":")[0]


def own_traceback(text: str) -> str:
    """Return the part of a printed traceback that is of the last exception.

    Those it came upon are the task's: their messages may hold its data.
    """
    before, start, last = text.rpartition(_HEAD)
    return start + last if before else text
