"""Cuts what faulthandler wrote in a worker down to the task.

Runs in the parent. Below a task's own frames there are the envelope's and the
host's, and under the start method fork those of the parent at the moment of
the fork: its user looked for the task among three times as many lines.
"""

from __future__ import annotations

import re
from typing import Final

_ENVELOPE: Final = re.compile(r'  File ".*\bpoolwarden[/\\]worker[/\\]envelope\.py", line ')
_LIMITED: Final = re.compile(r'  File ".*\bpoolwarden[/\\]limited\.py", line ')


def task_frames(text: str) -> str:
    """Return the text of faulthandler without the frames below the task's.

    The topmost frame of a thread always stays: a task that is written in C
    has none of its own. A thread without frames of ours (one of the task's,
    or a stack that faulthandler itself has cut off) stays as it is.
    """
    kept: list[str] = []
    depth = 0  # of the kept frames of a thread; -1 below the task
    for line in text.splitlines(keepends=True):
        if not line.startswith("  "):
            depth = 0
        elif depth > 0 and _ENVELOPE.match(line):
            # What `limits` has put around the task goes, too.
            if depth > 1 and _LIMITED.match(kept[-1]):
                kept.pop()
            depth = -1
        elif depth >= 0:
            depth += 1
        if depth >= 0:
            kept.append(line)
    return "".join(kept)
