"""The live workers of one pool: added when they start, taken out when their end was answered for."""

from __future__ import annotations

from typing import Any

from .workers import Worker


class WorkerTable:
    """Any thread may ask; each change is one step."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}  # by id() of the host's process object

    def add(self, worker: Worker) -> None:
        """Add a worker that has started."""
        self._workers[id(worker.process)] = worker

    def has(self, process: Any) -> bool:
        """Return whether a process object of the host is here."""
        return id(process) in self._workers

    def live(self) -> list[Worker]:
        """Return the workers whose end was not answered for."""
        return list(self._workers.values())

    def is_empty(self) -> bool:
        """Return whether no worker is left."""
        return not self._workers

    def has_ended_ones(self) -> bool:
        """Return whether one has ended, and was not answered for."""
        return any(worker.has_ended() for worker in self.live())

    def remove(self, worker: Worker) -> None:
        """Take a worker out; twice is no error."""
        self._workers.pop(id(worker.process), None)

    def clear(self) -> None:
        """Forget all."""
        self._workers.clear()
