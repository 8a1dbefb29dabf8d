"""Waiting for descriptors and conditions, on a clock that nothing but the kernel moves.

`multiprocessing.connection.wait` and `threading.Condition.wait_for` count with
`time.monotonic`: under a tool that freezes it they wait for ever, or spin. Runs
in the parent; any thread.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from typing import Any, Final

from .. import clock

#: Taken now: eventlet deletes it, and what gevent puts there switches to other greenlets.
#: None on Windows.
poll: Final[Any] = getattr(select, "poll", None)


def readable(files: Iterable[Any], timeout: float | None) -> list[Any]:
    """Return which of some descriptors (or objects that have one) can be read, or have ended.

    Waits `timeout` seconds for one of them; None is without a bound. What is no
    descriptor any more counts as readable: reading it fails, and so the caller
    learns of it.
    """
    if poll is None:
        return wait(files, timeout)
    waiting, by_number = poll(), {}
    for file in files:
        by_number[file if isinstance(file, int) else file.fileno()] = file
        waiting.register(file, select.POLLIN)
    return [by_number[fd] for fd, _ in waiting.poll(None if timeout is None else timeout * 1000)]


def wait_for(condition: threading.Condition, predicate: Callable[[], bool], timeout: float) -> bool:
    """Do as ``condition.wait_for``; the condition is held by the caller."""
    end = clock.now() + timeout
    while not predicate():
        left = end - clock.now()
        if left <= 0:
            return False
        condition.wait(left)
    return True
