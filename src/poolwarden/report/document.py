"""The report as plain values: what the JSON file holds, and the page shows.

The schema is in the docstring of the package. Runs at the end of the program.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING, Any, Final

from .. import clock

if TYPE_CHECKING:
    from ..records import Event, TaskInfo, WorkerExit
    from .recording import Recording
    from .track import Track

SCHEMA: Final = 1


def describe(recording: Recording) -> dict[str, Any]:
    """Return all that was recorded, as the schema says."""
    from ..version import __version__

    now = clock.wall()
    # Tracks keep times of a clock that is never set.
    offset = now - clock.now()
    tracks = list(recording.tracks)
    counts, events = recording.kept()
    return {
        "schema": SCHEMA,
        "poolwarden": __version__,
        "python": platform.python_version(),
        "platform": _platform(),
        # Its arguments are left out: they may hold secrets.
        "program": os.path.basename(sys.argv[0]) if sys.argv else "",
        "pid": recording.pid,
        "started": recording.started,
        "ended": now,
        "counts": counts,
        "left_out": {
            "events": recording.left_out["events"],
            "stacks": recording.left_out["stacks"],
            "pools": recording.left_out["pools"],
            "workers": sum(track.workers_left_out for track in tracks),
            "bars": sum(track.bars_left_out for track in tracks),
        },
        "pools": [_pool(track, offset) for track in tracks],
        "events": [_event(event, stack) for event, stack in events],
    }


def _platform() -> str:
    """Return system, release and machine.

    Not by `platform.platform`: it starts a process to learn of the processor. In the report's thread that
    stood still for as long as a worker lived that had been forked in that moment and kept its pipe open.
    """
    if not hasattr(os, "uname"):
        return platform.platform()
    system = os.uname()
    return f"{system.sysname}-{system.release}-{system.machine}"


def _pool(track: Track, offset: float) -> dict[str, Any]:
    return {
        "name": track.name,
        "host": track.host,
        "opened": track.opened + offset,
        "closed": None if track.closed is None else track.closed + offset,
        "calls": track.calls,
        "workers": [
            {
                "pid": life.pid,
                "started": life.started + offset,
                "ended": None if life.ended is None else life.ended + offset,
                "end": life.end,
            }
            for life in list(track.lives)
        ],
        "bars": [
            {
                "pid": pid,
                "start": bar.start + offset,
                "end": bar.end + offset,
                "function": bar.function,
                "index": bar.index,
                "tasks": bar.tasks,
                "lost": bar.lost,
            }
            for pid, bars in list(track.bars.items())
            for bar in bars
        ],
    }


def _event(event: Event, stack: str | None) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "time": event.time,
        "pool": event.pool,
        "pid": event.pid,
        "detail": event.detail,
        "stack": stack,
        "task": event.task and _task(event.task),
        "exit": event.exit and _exit(event.exit),
    }


def _task(task: TaskInfo) -> dict[str, Any]:
    return {
        "function": task.function,
        "index": task.index,
        "site": task.site,
        "attempts": task.attempts,
    }


def _exit(exit: WorkerExit) -> dict[str, Any]:
    return {
        "pid": exit.pid,
        "exitcode": exit.exitcode,
        "signal": exit.signal,
        "cause": exit.cause,
        "evidence": list(exit.evidence),
    }
