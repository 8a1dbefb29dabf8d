"""What the workers of guarded pools run now, for those who look on.

Runs in threads of observers, which only read; births, ends and losses are told
by `Guard`. pytest's plugin may ask of all pools.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import clock
from ..records import TaskInfo
from ..system.watchdog import watchdog
from ..worker.ledger import RUNNING
from .observing import PoolObserver, Running, observers_of
from .task_names import name_of

if TYPE_CHECKING:
    from .ticket import Ticket
    from .tickets import Tickets
    from .workers import Snapshot, Worker


class RunsTasks(ABC):
    """A guarded pool, as those see it who want to know what it runs."""

    name: str
    tickets: Tickets

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether it ends."""

    @abstractmethod
    def live_workers(self) -> list[Worker]:
        """Return the workers whose end has not been reported."""


def observe(pool: RunsTasks, host: str) -> tuple[PoolObserver, ...]:
    """Return who wants to be told of a pool's workers and events; `host` names its kind."""
    # Weak: an observer's thread must not keep a pool that nobody uses.
    reference = weakref.ref(pool)
    return observers_of(pool.name, host, lambda: _look(reference()))


def running(worker: Worker, seen: Snapshot, ticket: Ticket) -> Running:
    """Return what a worker runs, as observers keep it."""
    item = None if ticket.base is None else ticket.base + seen.item
    key = (seen.ticket, seen.started)
    return Running(worker.pid, key, seen.started / 1e9, name_of(ticket.function), item)


def tasks_now() -> list[tuple[TaskInfo, float]]:
    """Return what runs in guarded pools, and for how many seconds.

    Takes no lock: signal handlers may call it.
    """
    pools = [owner for owner in watchdog().owners() if isinstance(owner, RunsTasks) and not owner.closed]
    now = clock.now()
    return [
        (ticket.info(seen.item), now - seen.started / 1e9)
        for pool in pools
        for _, seen, ticket in _running_in(pool)
    ]


def _look(pool: RunsTasks | None) -> list[Running] | None:
    if pool is None or pool.closed:
        return None
    return [running(*found) for found in _running_in(pool)]


def _running_in(pool: RunsTasks) -> Iterator[tuple[Worker, Snapshot, Ticket]]:
    for worker in pool.live_workers():
        try:
            seen = worker.snapshot()
        except ValueError:
            # It was buried between the list and the look.
            continue
        ticket = pool.tickets.open.get(seen.ticket)
        if seen.phase == RUNNING and ticket is not None:
            yield worker, seen, ticket
