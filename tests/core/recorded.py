"""Real processes with records that the test writes: workers as the core sees them.

What a worker says of itself is written by hand, so that each phase can be had
at will; what the kernel says of it is true.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from poolwarden.core.pool_memory import Place, PoolMemory
from poolwarden.core.workers import Worker
from poolwarden.worker.results import Ring
from tests.worker.processes import running, wait_for_ever


def store_outcome(worker: Worker, ticket: int, kind: int, data: bytes) -> None:
    """Store an outcome into the record of a worker."""
    assert worker.place is not None
    worker.place.record.store_outcome(ticket, kind, data)


def write_stack(worker: Worker, text: str) -> None:
    """Write what faulthandler would write for a worker."""
    assert worker.place is not None
    start = worker.place.memory.stack_start(worker.place.number)
    with worker.place.memory.view(start, len(text.encode())) as view:
        view[:] = text.encode()


def keep(place: Place, ticket: int, results: dict[int, Any]) -> bytes:
    """Keep results of a chunk's items, as the worker in a place does; return where they lie."""
    ring = Ring(place.memory, place.number, place.record.cells)
    ring.begin_keeping(ticket)
    for item, value in results.items():
        assert ring.keep(item, pickle.dumps(value))
    return ring.kept(ticket)


@contextmanager
def workers() -> Iterator[Callable[..., Worker]]:
    """Make workers on demand, with what their records say; all are killed and closed at the end.

    The pool's memory is the attribute ``memory`` of what makes them.
    """
    memory = PoolMemory(32, "multiprocessing.reduction:ForkingPickler")
    with ExitStack() as stack:
        stack.callback(memory.close)

        def start(target: Callable[..., Any] = wait_for_ever, *, older: bool = False, **cells: int) -> Worker:
            process = stack.enter_context(running(target))
            worker = Worker(process, memory.adopt(process), older=older)
            worker.set_cells(**cells)
            stack.callback(worker.close)
            return worker

        start.memory = memory  # type: ignore[attr-defined]
        yield start
