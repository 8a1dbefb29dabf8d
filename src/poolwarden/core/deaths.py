"""What the end of a worker means: a function of its record and its exit, and of nothing else.

=========================================== ======== ============ ==================
phase at its end                            its task told as      queue is suspect
=========================================== ======== ============ ==================
UNBORN, older than the guard                --       ADOPTED      yes
UNBORN, older, and told to leave            --       (nothing)    no
UNBORN, STARTING, FAILED                    --       FAILED_START if it held a lock
READY                                       --       IDLE         yes
RUNNING, its outcome is stored              deliver  (nothing)    if it held a lock
RUNNING                                     lose     (by the loss) if it held a lock
DONE                                        deliver  IDLE         yes
LEFT, as it may                             deliver  (nothing)    if it held a lock
LEFT, unasked                               deliver  IDLE         yes
any, killed for a repair                    as above (nothing)    no: this is one
=========================================== ======== ============ ==================
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..worker import ledger

#: What is told of a death next to the end of a task.
ADOPTED: Final = "adopted"
IDLE: Final = "idle"
FAILED_START: Final = "failed start"

#: Phases in which a dead worker may have held a lock of the pool. Not STARTING
#: and FAILED: the host's loop has not begun.
_SUSPECT: Final = (ledger.READY, ledger.DONE)


class Death(NamedTuple):
    """What the end of a worker means.

    Attributes
    ----------
    delivers : bool
        The outcome in its record is handed on; if it was sent before it is dropped.
    loses : bool
        The task that it ran is lost, timed out or cancelled.
    told : str or None
        `ADOPTED`, `IDLE` or `FAILED_START`.
    suspect : bool
        The queue of tasks, or a lock, may be left broken.
    """

    delivers: bool = False
    loses: bool = False
    told: str | None = None
    suspect: bool = False


def examine(
    phase: int,
    *,
    older: bool = False,
    stored: bool = False,
    for_repair: bool = False,
    told_to_leave: bool = False,
    may_leave: bool = False,
    held_lock: bool = False,
) -> Death:
    """Return what a death means.

    Parameters
    ----------
    phase : int
        As its record says (`worker.ledger`).
    older : bool
        It was started before the guard.
    stored : bool
        The outcome in its record is that of the task it ran: it died before it said so.
    for_repair : bool
        It was killed for a repair.
    told_to_leave : bool
        It never joined, and was told to leave: there was nothing for it to do.
    may_leave : bool
        The host may have told it to leave, with the exit code that it has.
    held_lock : bool
        It may have held a lock of the pool.
    """
    running = phase == ledger.RUNNING
    delivers = (running and stored) or phase in (ledger.DONE, ledger.LEFT)
    loses = running and not stored
    if for_repair or told_to_leave:
        return Death(delivers, loses)
    adopted = older and phase == ledger.UNBORN
    idle = phase in _SUSPECT or (phase == ledger.LEFT and not may_leave)
    told = None
    if adopted:
        told = ADOPTED
    elif idle:
        told = IDLE
    elif phase in (ledger.UNBORN, ledger.STARTING, ledger.FAILED):
        told = FAILED_START
    return Death(delivers, loses, told, held_lock or idle or adopted)
