"""Words and numbers of the page, safe to be put into it."""

from __future__ import annotations

import html
import re
from typing import Final

# Characters that HTML does not allow, or that turn the direction of text around.
_ODD: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def escape(text: object) -> str:
    """Return a text for an element or an attribute in double quotes."""
    return html.escape(_ODD.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def code(name: object) -> str:
    """Return a name as code, which may be broken behind its dots."""
    return f"<code>{escape(name).replace('.', '.<wbr>')}</code>"


def plural(number: int, noun: str) -> str:
    """Return "1 task", "2 tasks"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a length of time with two or three digits that count."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds else "0"
    if seconds < 99.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min" if seconds >= 600 else f"{int(seconds) // 60} min {int(seconds) % 60:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
