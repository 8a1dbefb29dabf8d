"""How commands write to a terminal, a pipe or a file.

Covers colour and characters that the receiver can take. Knows nothing of what
is written.
"""

from __future__ import annotations

import os
from typing import Final, TextIO

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Terminal:
    """A text stream, with colour if a person is likely to look at it.

    Parameters
    ----------
    stream : text stream
        Usually `sys.stdout`. Coloured if it is a terminal, ``TERM`` is not
        ``dumb`` and ``NO_COLOR`` is unset or empty (https://no-color.org).
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.coloured = (
            stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        )

    def style(self, text: str, *names: str) -> str:
        """Return `text` in these styles (bold, dim, red, green, yellow), or as it is."""
        if not self.coloured:
            return text
        return f"\033[{';'.join(_CODES[name] for name in names)}m{text}\033[0m"

    def write(self, line: str = "") -> None:
        """Write one line, at once; what the encoding lacks is written as an escape."""
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self._stream.flush()
