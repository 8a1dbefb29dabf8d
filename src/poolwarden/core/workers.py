"""A worker as the parent sees it: its process and its record.

Covers reading a worker's record; what to do with it is decided in `guard` and
`stop_world`. Runs in the parent.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

from .. import clock
from ..system.process_handle import Handle
from ..worker import ledger
from ..worker.results import kept_results
from .pool_memory import Place
from .stacks import task_frames


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a worker's record said at one moment (see `worker.ledger`)."""

    phase: int
    ticket: int
    item: int
    started: int
    armed: int = 0


_UNBORN = Snapshot(ledger.UNBORN, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Kill:
    """Why the guard killed a worker.

    Attributes
    ----------
    reason : str
        ``"timeout"``, ``"cancel"``, ``"startup"``, ``"stopped"``, ``"stuck"`` or ``"repair"``.
    ticket : int
        The task it was killed for; 0 when it was for none.
    stack : str or None
        The worker's Python stack just before.
    """

    reason: str
    ticket: int = 0
    stack: str | None = None


class Worker(Handle):
    """One worker process of a guarded pool.

    Attributes
    ----------
    older : bool
        True for a worker that was started before the guard.
    killed : Kill or None
        Set by the guard before it sends SIGKILL.
    soft : Snapshot or None
        The running item that was asked to stop.
    left : bool
        True when it has left in an orderly way.
    losing : bool
        True once its task is being answered for, after its death.
    """

    __slots__ = ("_last", "_told", "born", "killed", "left", "losing", "older", "place", "soft")

    def __init__(self, process: Any, place: Place | None, *, older: bool) -> None:
        super().__init__(process)
        self.place = place
        self.older = older
        self.born = clock.now()
        self.killed: Kill | None = None
        self.soft: Snapshot | None = None
        self.left = False
        self.losing = False
        # What a worker without a record has told through the result pipe.
        self._told: Snapshot | None = None
        self._last: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        """Return what the record says; UNBORN when nothing is known (yet). Any thread, closed or not."""
        if self._last is not None:
            return self._last
        if self._told is not None:
            return self._told
        if self.place is None:
            return _UNBORN
        try:
            cells = self.place.record.cells
            return Snapshot(
                cells[ledger.PHASE],
                cells[ledger.TICKET],
                cells[ledger.ITEM],
                cells[ledger.STARTED],
                cells[ledger.ARMED],
            )
        except ValueError:
            # Another thread has closed it since.
            return self._last or _UNBORN

    def tell(self, phase: int, ticket: int = 0) -> None:
        """Note what a worker without a record says of itself. Result thread."""
        self._told = Snapshot(phase, ticket, 0, clock.now_ns())

    @property
    def is_told(self) -> bool:
        """Whether it has no record, so that news of it come late."""
        return self._told is not None

    def may_hold_lock(self) -> bool:
        """Return whether it may hold a lock of the pool although it runs a task."""
        if self.place is None or self._told is not None:
            # What it has told is old when it is read.
            return True
        return bool(self.telling() & 1)

    def telling(self) -> int:
        """Return a number that is odd while it sends a note from its task, and greater after each."""
        with contextlib.suppress(ValueError):
            return 0 if self.place is None else self.place.record.cells[ledger.TELLING]
        # Another thread has closed it since.
        return 0

    def is_unknown(self) -> bool:
        """Return whether it has not joined and may be at work: older than the guard, or without a record."""
        return (self.older or self.place is None) and self.snapshot().phase == ledger.UNBORN

    def outcome(self) -> tuple[int, int, bytes]:
        """Return the last outcome in the record; ticket 0 when there is none."""
        try:
            return (0, 0, b"") if self.place is None else self.place.record.outcome()
        except ValueError:
            return 0, 0, b""

    def kept(self, ticket: int) -> dict[int, bytes]:
        """Return the results that it has kept of the items of a chunk, pickled. Once it has ended."""
        if self.place is None:
            return {}
        with contextlib.suppress(ValueError):
            cells = self.place.record.cells
            if cells[ledger.KEEP_TICKET] == ticket:
                start, end = cells[ledger.KEEP_START], cells[ledger.KEEP_END]
                return kept_results(self.place.memory, start, end - start)
        return {}

    def set_cells(self, **values: int) -> None:
        """Store into cells of the record, in the order given, by their names."""
        if self.place is not None:
            with contextlib.suppress(ValueError):
                for name, value in values.items():
                    self.place.record.cells[getattr(ledger, name)] = value

    def has_run_exit_handlers(self) -> bool:
        """Return whether it leaves in order, and has nothing left to do."""
        try:
            return self.place is not None and bool(self.place.record.cells[ledger.GONE])
        except ValueError:
            # Another thread has closed it since.
            return True

    def can_write_stack(self) -> bool:
        """Return whether what its faulthandler writes to is the pool's memory, and no file of the task's.

        A task may have closed what it does not know, and given the number to a file of its own.
        """
        with contextlib.suppress(ValueError, OSError):
            if self.place is not None:
                fd = self.place.record.cells[ledger.STACK_FD]
                status = os.stat(f"/proc/{self.pid}/fd/{fd}")
                return (status.st_dev, status.st_ino) == self.place.proof
        return False

    def stack_size(self) -> int:
        """Return how many bytes faulthandler has written."""
        with contextlib.suppress(ValueError):
            return 0 if self.place is None else self.place.stack_size()
        return 0

    def stack(self, start: int = 0) -> str | None:
        """Return what faulthandler wrote of the task behind byte `start`, if anything."""
        with contextlib.suppress(ValueError):
            return None if self.place is None else task_frames(self.place.stack(start)) or None
        return None

    def crash_stack(self) -> str | None:
        """Return what faulthandler wrote when the worker crashed.

        There may also be the stacks of a task that ended just before its
        timeout, or of a process that a task had forked.
        """
        text = self.stack() or ""
        start = text.rfind("Fatal Python error")
        return text[start:] if start >= 0 else None

    def close(self) -> None:
        """Release the descriptor; what the record says now is what it has said last."""
        self._last = self.snapshot()
        super().close()
