"""What the workers of guarded pools run now, for those who look on.

Runs in threads of observers, which only read; births, ends and losses are told
by `Guard`. pytest's plugin may ask of all pools.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import clock
from ..records import TaskInfo
from ..system.watchdog import watchdog
from ..worker.ledger import RUNNING
from .observing import PoolObserver, Running, observers_of
from .task_names import name_of

if TYPE_CHECKING:
    from .guard import Guard
    from .tickets import Ticket
    from .workers import Snapshot, Worker


def observe(guard: Guard) -> tuple[PoolObserver, ...]:
    """Return who wants to be told of `guard`'s workers and events."""
    # Weak: an observer's thread must not keep a pool that nobody uses.
    reference = weakref.ref(guard)
    return observers_of(guard.name, guard.adapter.name, lambda: _look(reference()))


def running(worker: Worker, seen: Snapshot, ticket: Ticket) -> Running:
    """Return what a worker runs, as observers keep it."""
    item = None if ticket.base is None else ticket.base + seen.item
    key = (seen.ticket, seen.started)
    return Running(worker.pid, key, seen.started / 1e9, name_of(ticket.function), item)


def tasks_now() -> list[tuple[TaskInfo, float]]:
    """Return what runs in guarded pools, and for how many seconds.

    Takes no lock: signal handlers may call it.
    """
    from .guard import Guard

    guards = [owner for owner in watchdog().owners() if isinstance(owner, Guard) and not owner.closed]
    now = clock.now()
    return [
        (ticket.info(seen.item), now - seen.started / 1e9)
        for guard in guards
        for _, seen, ticket in _running_in(guard)
    ]


def _look(guard: Guard | None) -> list[Running] | None:
    if guard is None or guard.closed:
        return None
    return [running(*found) for found in _running_in(guard)]


def _running_in(guard: Guard) -> Iterator[tuple[Worker, Snapshot, Ticket]]:
    for worker in guard.live_workers():
        try:
            seen = worker.snapshot()
        except ValueError:
            # It was buried between the list and the look.
            continue
        ticket = guard.tickets.open.get(seen.ticket)
        if seen.phase == RUNNING and ticket is not None:
            yield worker, seen, ticket
