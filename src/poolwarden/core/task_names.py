"""How a task is told to its user: its function's name, and where it was submitted.

Runs in the parent, in the thread that submits or feeds; no argument and no
result is ever looked at.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Final

from ..limited import Limited
from ..plaintext import shortened, visible

#: File and line of a submission; behind them those of the library that made it for that line, if one did.
Site = tuple[Any, ...]

#: Wrappers that are looked through; they may go round in a circle.
_WRAPPERS_MAX: Final = 100
#: Frames that are looked at for the user's own.
_DEPTH_MAX: Final = 200
_FILES_MAX: Final = 1000
_SITE_PACKAGES: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_LIBRARY: Final = os.path.dirname(os.__file__) + os.sep
_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Whether the code of a file is of an installed library; one entry for each file that ever submits.
_installed: Final[dict[str, bool]] = {}


def name_of(func: Any) -> str:
    """Return a function's qualified name with its module, looking through wrappers."""
    # By its type, not its ``__class__``: asked for an attribute, some objects run code of the user's, and a
    # lazy proxy outside of its context raises whatever it likes.
    kind = type(func)
    if kind is str:
        return str(func)
    for _ in range(_WRAPPERS_MAX):
        if issubclass(kind, partial):
            func = func.func
        elif issubclass(kind, Limited):
            func = func.__wrapped__
        else:
            break
        kind = type(func)
    name, module = _text_of(func, "__qualname__"), _text_of(func, "__module__")
    return visible(shortened(f"{module or kind.__module__}.{name or kind.__qualname__}"))


def _text_of(func: Any, name: str) -> str | None:
    try:
        text = getattr(func, name, None)
    except BaseException:
        return None
    return text if type(text) is str else None


def caller_site(own_files: tuple[str, ...], frame: Any) -> Site | None:
    """Return file and line of the innermost frame outside of the host's, our own, and installed code.

    If a library stands between, its line follows. A library that nobody else
    called (a thread of its own) is taken for the caller.
    """
    while frame is not None and frame.f_code.co_filename.endswith(own_files):
        frame = frame.f_back
    if frame is None:
        return None
    if _installed.get(frame.f_code.co_filename) is False:
        # Nearly always. In the thread that submits, for each task: it is worth the two lines.
        return (frame.f_code.co_filename, frame.f_lineno)
    first = (frame.f_code.co_filename, frame.f_lineno)
    for _ in range(_DEPTH_MAX):
        file = frame.f_code.co_filename
        is_library = _installed.get(file)
        if is_library is None:
            if len(_installed) > _FILES_MAX:  # a notebook makes a file name for each cell
                _installed.clear()
            is_library = _installed[file] = _is_installed(file)
        if not is_library:
            here = (file, frame.f_lineno)
            return here if here == first else (*here, *first)
        frame = frame.f_back
        if frame is None:
            break
    return first


def site_texts(site: Site | None) -> tuple[str | None, str | None]:
    """Return ``"job.py:12"`` for a site, and ``"sklearn/utils/parallel.py:83"`` for what it went through."""
    if site is None:
        return None, None
    through = None if len(site) < 4 else f"{_in_its_package(site[2])}:{site[3]}"
    return visible(f"{site[0]}:{site[1]}"), through and visible(through)


def _is_installed(file: str) -> bool:
    return file.startswith((_LIBRARY, _OURS, "<frozen ")) or any(part in file for part in _SITE_PACKAGES)


def _in_its_package(file: str) -> str:
    for part in (*_SITE_PACKAGES, _LIBRARY):
        _, found, rest = file.rpartition(part)
        if found:
            return rest
    return file
