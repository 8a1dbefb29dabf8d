"""How many tasks this process has lost, and the one line that says so at its end.

Covers programs that are guarded from outside (`POOLWARDEN`, ``poolwarden
run``) and know nothing of it: with ``losses="return"`` they would end as if
nothing had been lost. Any thread counts; the line is written behind the ends
of all pools.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ..plaintext import visible

#: Events of this process so far, by kind.
counts: Final[Counter[str]] = Counter()

#: Of `multiprocessing.util`: behind the report, which is written behind the ends of all pools.
_LAST: Final = -1001

_awaited: list[int] = []


def has_losses() -> bool:
    """Return whether a task was lost or timed out, or a pool given up, in this process."""
    return any(counts[kind] for kind in ("task_lost", "task_timeout", "pool_broken"))


def tell_at_exit(losses: object, report: Callable[[], str | None] = lambda: None) -> None:
    """Have the line written when this process ends, if there is something to tell.

    Parameters
    ----------
    losses : object
        What was asked for with `losses`.
    report : callable
        Returns the path of the report, None if there is none.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    if _awaited[-1:] == [os.getpid()] or (process is not None and process.parent_process() is not None):
        return  # a worker: what its own pools lose fails its task, and is seen in its outcome
    from multiprocessing import util

    _awaited.append(os.getpid())
    util.Finalize(None, _tell, args=(os.getpid(), losses, report), exitpriority=_LAST)


def line(losses: object, path: str | None = None) -> str:
    """Return the line, which names the report at `path`; empty if nothing was lost, retried or stopped."""
    told = (
        _some(counts["task_lost"], "task lost", "tasks lost"),
        _some(counts["task_timeout"], "timed out"),
        _some(counts["task_retried"], "retried"),
        _some(counts["pool_broken"], "pool given up", "pools given up"),
    )
    if not any(told):
        return ""
    text = f"poolwarden: {', '.join(filter(None, told))}"
    if losses == "return" and (counts["task_lost"] or counts["task_timeout"]):
        text += "; their errors stand among the results"
    return visible(text + (f"; the report is {path}" if path else ""))


def _some(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun if number == 1 else plural or noun}" if number else ""


def _tell(pid: int, losses: object, report: Callable[[], str | None]) -> None:
    text = line(losses, report())
    if text and pid == os.getpid() and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # full, or closed
            print(text, file=sys.stderr)


def _in_child() -> None:
    """In a forked process: what was lost is the parent's."""
    counts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
