"""A worker's side of a guarded pool, in the test's own process.

The same as a worker makes of itself, without the signal handlers and the
arming against orphanage, which belong to a process and have tests of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any

from poolwarden.core.pool_memory import Place, PoolMemory
from poolwarden.worker import member as member_module
from poolwarden.worker.member import Member
from poolwarden.worker.payload import Dumper, Reader
from poolwarden.worker.results import Ring

#: Identities that no process of the tests has.
_identities = itertools.count(1_000_000)


class Pipe:
    """Stands in for the host's result pipe, and remembers what is told through it."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def tell(self, *told: Any) -> None:
        self.told.append(told)

    def send_pieces(self, ticket: int, data: bytes) -> bytes:
        self.tell("pieces", ticket, data)
        return len(data).to_bytes(8, "little")


class Started:
    """Stands in for the object of a process that has been started."""

    pid = 1

    def __init__(self) -> None:
        self._identity = (next(_identities),)


def new_place(memory: PoolMemory) -> Place:
    """Return a place for a worker that is no process."""
    process = Started()
    memory.prepare(process)
    memory.note_started(process)
    place = memory.place_of(process)
    assert place is not None
    return place


@contextmanager
def member_of(memory: PoolMemory, place: Place | None = None) -> Iterator[Member]:
    """Make this process a member of the pool that has this memory, until the end of the block."""
    place = place or new_place(memory)
    member: Any = object.__new__(Member)
    member.pool = memory.name
    member.held = []
    member.in_task = member.forked = False
    member.soft_error = None
    member.identity = place.ident
    member.memory = place.memory
    member.record = place.record
    member.ring = Ring(place.memory, place.number, place.record.cells) if place.memory.ring else None
    member.calls = Reader(memory.main.memory)
    member.dumper = Dumper(ForkingPickler)
    member.stack = -1
    member._pipe = Pipe()
    member_module._members[memory.name] = member
    try:
        yield member
    finally:
        del member_module._members[memory.name]
