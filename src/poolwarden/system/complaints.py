"""What there is to say of user code that raised where nobody can be told: in a callback, for example.

The logger's handlers and filters are the user's: they may block, raise, fork. So
what is said is logged by a thread of its own, there only while there is
something to say, and never by one that answers tasks. Any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from typing import Final

from . import threads
from .forking import no_fork

log = logging.getLogger("poolwarden")

#: How many wait to be said while a handler blocks; older ones are dropped.
WAITING_MAX: Final = 100

_waiting: deque[tuple[logging.Logger, int, str, BaseException | None]] = deque(maxlen=WAITING_MAX)
_thread: threading.Thread | None = None


def complain(
    text: str,
    error: BaseException | None = None,
    level: int = logging.ERROR,
    logger: logging.Logger = log,
) -> None:
    """Log `text` soon, with the traceback of `error`; raises nothing and never blocks."""
    global _thread
    _waiting.append((logger, level, text, error))
    if _thread is not None and _thread.is_alive():
        return
    thread = threading.Thread(target=_say_all, name="poolwarden-complaints", daemon=True)
    # One too many does no harm.
    _thread = thread
    try:
        threads.start(thread)
    except RuntimeError:
        # From Python 3.12 on no thread can be started once the interpreter ends.
        _say_all()


def _say_all() -> None:
    global _thread
    while True:
        try:
            logger, level, text, error = _waiting.popleft()
        except IndexError:
            _thread = None
            if not _waiting:
                return
            continue
        with contextlib.suppress(BaseException), no_fork():
            logger.log(level, "%s", text, exc_info=error)
        del error


def _in_child() -> None:
    global _thread
    _thread = None
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
