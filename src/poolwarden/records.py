"""The frozen records that errors, events and reports are made of.

Covers plain values only: no behaviour, no clocks, no processes, no text.
Runs in the parent process; workers must not import it, because `dataclasses`
alone costs a worker's start-up several milliseconds.

Every record pickles, compares by value and can be hashed. None of them holds
arguments or results of a task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CAUSES: Final = ("signal", "exit", "oom", "killed_by_guard", "unknown")
"""The values of `WorkerExit.cause`."""

EVENT_KINDS: Final = (
    "worker_lost",
    "task_lost",
    "task_retried",
    "task_timeout",
    "task_cancelled",
    "pool_repaired",
    "pool_broken",
    "worker_killed",
    "worker_woken",
    "init_failed",
)
"""The values of `Event.kind`; later versions may add some.

``worker_lost``
    A worker died, and no task of the guard's with it.
``task_lost``, ``task_retried``
    A task was lost with its worker; it fails, or is run again.
``task_timeout``, ``task_cancelled``
    A task was stopped, because of its timeout or by `cancel`.
``pool_repaired``
    The pool's queues were put right behind a death.
``pool_broken``
    The pool was given up.
``init_failed``
    A worker ended before it was ready.
``worker_woken``, ``worker_killed``
    An idle worker stood still while tasks waited; it was woken, or killed and replaced.
"""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Which task: what was submitted, from where, and how often it ran.

    Attributes
    ----------
    function : str
        Qualified name of the function, with its module.
    index : int or None
        Position of the item in the call (`map`, `imap`, ...), from 0;
        None for a single task.
    site : str or None
        Where the task was submitted, as ``"file.py:12"``: the innermost line
        that is not of an installed library; None if not known.
    attempts : int
        How often the task was started in a worker.
    through : str or None
        The line of the installed library that submitted it for that line.
    """

    function: str
    index: int | None
    site: str | None
    attempts: int
    through: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker ended, and how that is known.

    Attributes
    ----------
    pid : int or None
        Process id of the worker.
    exitcode : int or None
        As `multiprocessing.Process.exitcode`: negative is minus the signal
        number; None if it could not be learnt.
    signal : str or None
        Name of the signal (``"SIGKILL"``), None when no signal ended it.
    cause : str
        One of `CAUSES`.
    evidence : tuple of str
        What was seen, one statement each. A guess says "likely".
    """

    pid: int | None
    exitcode: int | None
    signal: str | None
    cause: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a guarded pool, as given to `on_event`.

    Attributes
    ----------
    kind : str
        One of `EVENT_KINDS`.
    time : float
        When it was noticed, in seconds since the epoch, by the system's clock:
        what stands in for `time.time` (freezegun) does not change it.
    pool : str
        Name of the pool.
    pid : int or None
        Process id of the worker concerned.
    task : TaskInfo or None
        The task concerned.
    exit : WorkerExit or None
        How the worker ended.
    detail : str
        One sentence for people; may be empty.
    stack : str or None
        Python stack of the worker at its end (a crash or a timeout).
    """

    kind: str
    time: float
    pool: str
    pid: int | None = None
    task: TaskInfo | None = None
    exit: WorkerExit | None = None
    detail: str = ""
    stack: str | None = None
