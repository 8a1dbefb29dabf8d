"""A worker as the parent sees it: its process and its record.

Covers reading a worker's record; what to do with it is decided in `guard` and
`plumbing`. Runs in the parent.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Any

from ..worker import ledger
from ..worker.payload import SPILL
from .handles import Handle
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
    """

    __slots__ = ("_last", "_record", "born", "folder", "killed", "left", "older", "soft")

    def __init__(self, process: Any, folder: str, *, older: bool) -> None:
        super().__init__(process)
        self.folder = folder
        self.older = older
        self.born = time.monotonic()
        self.killed: Kill | None = None
        self.soft: Snapshot | None = None
        self.left = False
        self._record: ledger.Record | None = None
        self._last: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        """Return what the record says; UNBORN when there is none (yet). Any thread, closed or not."""
        if self._last is not None:
            return self._last
        record = self._open_record()
        if record is None:
            return _UNBORN
        try:
            cells = record.cells
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

    def is_unknown(self) -> bool:
        """Return whether it is older than the guard and has not joined: nobody knows what it does."""
        return self.older and self.snapshot().phase == ledger.UNBORN

    def outcome(self) -> tuple[int, int, bytes]:
        """Return the last outcome in the record; ticket 0 when there is none."""
        record = self._open_record()
        return (0, 0, b"") if record is None else record.outcome()

    def set_cells(self, **values: int) -> None:
        """Store into cells of the record, in the order given, by their names."""
        record = self._open_record()
        if record is None:
            return
        # Another thread may have closed it since.
        with contextlib.suppress(ValueError):
            for name, value in values.items():
                record.cells[getattr(ledger, name)] = value

    def has_run_exit_handlers(self) -> bool:
        """Return whether it leaves in order, and has nothing left to do."""
        record = self._open_record()
        try:
            return record is not None and bool(record.cells[ledger.GONE])
        except ValueError:
            # Another thread has closed it since.
            return True

    def _open_record(self) -> ledger.Record | None:
        if self._record is None:
            for path in (f"{self.folder}/{self.pid}", f"{self.folder}/{SPILL}/{self.pid}"):
                # Missing, or not sized yet: such a worker holds no task.
                with contextlib.suppress(OSError, ValueError):
                    self._record = ledger.Record(path)
                    break
        return self._record

    def stack(self, start: int = 0) -> str | None:
        """Return what faulthandler wrote of the task behind byte `start`, if anything."""
        try:
            with open(self.stack_path, "rb") as file:
                file.seek(start)
                return task_frames(file.read().decode("utf-8", "replace")) or None
        except OSError:
            return None

    def crash_stack(self) -> str | None:
        """Return what faulthandler wrote when the worker crashed.

        The file may also hold the stacks of a task that ended just before its
        timeout, or of a process that a task had forked.
        """
        text = self.stack() or ""
        start = text.rfind("Fatal Python error")
        return text[start:] if start >= 0 else None

    @property
    def stack_path(self) -> str:
        return f"{self.folder}/{self.pid}.stack"

    def close(self) -> None:
        """Release the descriptor and remove the worker's files."""
        if self._record is not None:
            self._last = self.snapshot()
            self._record.close()
            self._record = None
        for path in (f"{self.folder}/{self.pid}", f"{self.folder}/{SPILL}/{self.pid}", self.stack_path):
            with contextlib.suppress(OSError):
                os.unlink(path)
        super().close()
