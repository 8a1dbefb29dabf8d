"""What is left of faulthandler's text."""

from __future__ import annotations

import pytest

from poolwarden.core.stacks import task_frames

OWN = '  File "/lib/poolwarden/worker/envelope.py", line 88 in run\n'
LIMITED = '  File "/lib/poolwarden/limited.py", line 38 in __call__\n'
HEAD = "Current thread 0x1 [python] (most recent call first):\n"
TASK = '  File "/home/poolwarden/envelope.py", line 6 in inner\n  File "shop.py", line 8 in fetch\n'
HOST = '  File "pool.py", line 125 in worker\n  File "shop.py", line 15 in main\n'


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (HEAD + TASK + OWN + OWN + HOST, HEAD + TASK),
        (HEAD + TASK + LIMITED + OWN + HOST, HEAD + TASK),
        # It calls a function with limits of its own.
        (HEAD + TASK + LIMITED + TASK + OWN + HOST, HEAD + TASK + LIMITED + TASK),
        # The task is written in C.
        (HEAD + OWN + OWN + HOST, HEAD + OWN),
        (HEAD + LIMITED + OWN + HOST, HEAD + LIMITED),
        # A pool within a task.
        (HEAD + TASK + OWN + HOST + TASK + OWN + HOST, HEAD + TASK),
        # No frame of ours.
        (HEAD + TASK, HEAD + TASK),
        (HEAD + TASK + "  ...\n", HEAD + TASK + "  ...\n"),
        ("", ""),
        ("in shop.fetch", "in shop.fetch"),
        (HEAD + TASK + OWN.replace("/", "\\") + HOST, HEAD + TASK),
    ],
)
def test_frames_below_the_task_are_left_out(text: str, left: str) -> None:
    assert task_frames(text) == left


def test_every_thread_is_cut_by_itself_and_what_follows_them_stays() -> None:
    crash = "Fatal Python error: Segmentation fault\n\n"
    other = "Thread 0x2 (most recent call first):\n" + HOST + "\n"
    behind = "\nCurrent thread's C stack trace (most recent call first):\n"
    behind += '  Binary file "libc.so.6" [0x1]\n'
    assert (
        task_frames(crash + other + HEAD + TASK + OWN + HOST + behind) == crash + other + HEAD + TASK + behind
    )
