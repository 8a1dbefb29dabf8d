"""Looks at what workers run, now and then.

One daemon thread a process, for all pools that are recorded, while there are
any. Nothing is written down by those who run tasks or send them, so a task
costs the same with a report as without one; what the looking costs does not
depend on the number of tasks.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .. import clock

if TYPE_CHECKING:
    from ..core.observing import Look, Running
    from .track import Track

log = logging.getLogger("poolwarden")

#: Seconds between two looks: while something runs, and at most.
SHORTEST: Final = 0.02
LONGEST: Final = 0.1

_lock = threading.Lock()
_watched: list[tuple[Track, Look]] = []
_refreshed: list[Callable[[bool], None]] = []
_thread: threading.Thread | None = None


def watch(track: Track, look: Look, refresh: Callable[[bool], None]) -> None:
    """Look at the workers of `track` until it is closed, or `look` returns None.

    `refresh` is called after each look at all pools; with True after the last.
    """
    global _thread
    with _lock:
        _watched.append((track, look))
        _refreshed[:] = [refresh]
        if _thread is None:
            _thread = threading.Thread(target=_run, name="poolwarden-report", daemon=True)
            _thread.start()


def _run() -> None:
    global _thread
    pause = SHORTEST
    while True:
        busy = False
        for track, look in list(_watched):
            found = _found(look)
            if found is None:
                _watched.remove((track, look))
                continue
            track.look(found)
            busy = busy or bool(found)
        with _lock:
            last = not _watched
            if last:
                _thread = None
            refresh = _refreshed[0]
        refresh(last)
        if last:
            return
        pause = SHORTEST if busy else min(2 * pause, LONGEST)
        clock.sleep(pause)


def _found(look: Look) -> list[Running] | None:
    try:
        return look()
    except Exception:
        log.exception("poolwarden: internal error; the report will lack what a pool's workers did")
        return None


def _forget() -> None:
    """In a forked process: the pools are the parent's, and the thread is gone."""
    global _lock, _thread
    _lock = threading.Lock()
    _watched.clear()
    _thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
