"""Imports, when a pool is guarded, what is needed later in the middle of something else.

A process that is forked while another thread imports has that module's import
lock, taken for ever. The pool's threads fork replacements at any moment, and
our threads and the new workers used to import what the first traceback takes:
the worker stood still in its own import of it, and the pool's ``join`` waited
for it. What is imported beforehand is neither under way nor waited for. Parent.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Final

_NAMES: Final = (
    "ast",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_8",
    "fcntl",
    "linecache",
    "multiprocessing.connection",
    "multiprocessing.util",
    "tokenize",
    "traceback",
    "unicodedata",
    f"{__package__.rpartition('.')[0]}.errors",
    f"{__package__.rpartition('.')[0]}.worker.envelope",
)


@functools.cache
def preload() -> None:
    """Import it all; what this system has not got is left out."""
    for name in _NAMES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import traceback

    # What a traceback imports only while it is formatted depends on the version and on the error:
    # for suggestions, for carets, for the width of characters.
    try:
        preload.nothing_of_the_kind  # type: ignore[attr-defined]  # noqa: B018
    except AttributeError as error:
        with contextlib.suppress(Exception):
            traceback.format_exception(type(error), error, error.__traceback__)
