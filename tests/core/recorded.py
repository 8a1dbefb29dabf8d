"""Real processes with records that the test writes: workers as the core sees them.

What a worker says of itself is written by hand, so that each phase can be had
at will; what the kernel says of it is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from poolwarden.core.workers import Worker
from poolwarden.worker import ledger
from poolwarden.worker.ledger import Record
from tests.worker.processes import running, wait_for_ever


def write_record(folder: str, pid: int, **cells: int) -> None:
    """Store into the record of a process, made if it is not there, by the cells' names."""
    path = f"{folder}/{pid}"
    try:
        record = Record(path, create=True)
    except FileExistsError:
        record = Record(path)
    for name, value in cells.items():
        record.cells[getattr(ledger, name)] = value
    record.close()


def store_outcome(folder: str, pid: int, ticket: int, kind: int, data: bytes) -> None:
    """Store an outcome into the record of a process, which has to be there."""
    record = Record(f"{folder}/{pid}")
    record.store_outcome(ticket, kind, data)
    record.close()


@contextmanager
def workers(folder: str) -> Iterator[Callable[..., Worker]]:
    """Make workers on demand; all are killed and closed at the end."""
    with ExitStack() as stack:

        def start(target: Callable[..., Any] = wait_for_ever, *, older: bool = False, **cells: int) -> Worker:
            process = stack.enter_context(running(target))
            if cells:
                write_record(folder, process.pid, **cells)
            worker = Worker(process, folder, older=older)
            stack.callback(worker.close)
            return worker

        yield start
