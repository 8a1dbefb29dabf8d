"""What the families of hosts share about tasks that were sent before their pool was guarded."""

from __future__ import annotations

from typing import Final

from ..core import error_texts
from ..core.diagnosis import Evidence, diagnose
from ..records import TaskInfo

#: Seconds between two looks, once a worker was lost, at whether others still run such tasks.
LOOK_STEP: Final = 0.2


def lost_earlier_task() -> BaseException:
    """Return the error of a task from before the guard that no worker can be running any more."""
    exit = diagnose(Evidence(None, None, notes=("it was sent before guard(), so its worker is not known",)))
    return error_texts.worker_lost(TaskInfo("a task submitted before guard()", None, None, 1), exit)
