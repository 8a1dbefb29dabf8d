"""Whether workers that import the program's main module would start the program again.

Workers of spawn, forkserver and loky import it before anything else of theirs,
so none of our code is there to tell what went wrong: what can be known is in
the file. Runs in the parent, when a pool is given up.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

#: Bytes of a file that are read.
_SIZE_MAX: Final = 1 << 20
# A regular expression and not `ast`: this may be the thread that watches, and workers that are forked while
# it imports `ast` would have that half imported.
_CONDITION: Final = re.compile(rb"^if\b.*\b__name__\b", re.MULTILINE)


def why_no_import() -> str:
    """Return why workers end before they begin, as the end of a sentence."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if not isinstance(path, str):
        return "its workers end before they are ready: likely they cannot import what they are given"
    name = os.path.basename(path)
    if _has_condition(path):
        return f"its workers end before they are ready: likely they cannot import the main module, {name}"
    return f'its workers cannot import the main module: {name} has no if __name__ == "__main__"'


def _has_condition(path: str) -> bool:
    """Return whether a file looks at ``__name__`` in an outermost if; True if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _CONDITION.search(file.read(_SIZE_MAX)) is not None
    except (OSError, ValueError):
        return True
