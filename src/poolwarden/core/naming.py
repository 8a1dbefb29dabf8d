"""How a task is told to its user: its function's name, and where it was submitted.

Runs in the parent, in the thread that submits or feeds; no argument and no
result is ever looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..limited import Limited


def name_of(func: Any) -> str:
    """Return a function's qualified name with its module, looking through wrappers."""
    if isinstance(func, str):
        return func
    while isinstance(func, (partial, Limited)):
        func = func.func if isinstance(func, partial) else func.__wrapped__
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    module = getattr(func, "__module__", None) or type(func).__module__
    return f"{module}.{name}"


def caller_site(own_files: tuple[str, ...], frame: Any) -> tuple[str, int] | None:
    """Return file and line of the first frame outside the host's and our own code."""
    while frame is not None and frame.f_code.co_filename.endswith(own_files):
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)
