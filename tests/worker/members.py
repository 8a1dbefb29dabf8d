"""A worker's side of a guarded pool, in the test's own process.

The same as a worker makes of itself, without the signal handlers and the
arming against orphanage, which belong to a process and have tests of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any

from poolwarden.worker import member as member_module
from poolwarden.worker.ledger import Record
from poolwarden.worker.member import Member
from poolwarden.worker.payload import Dumper, Store


@contextmanager
def member_of(folder: str) -> Iterator[Member]:
    """Make this process a member of the pool of this folder, until the end of the block."""
    member: Any = object.__new__(Member)
    member.forked = False
    member.folder = folder
    member.held = []
    member.in_task = False
    member.soft_error = None
    member.record = Record(f"{folder}/{os.getpid()}", create=True)
    member.store = Store(folder)
    member.dumper = Dumper(ForkingPickler)
    member_module._members[folder] = member
    try:
        yield member
    finally:
        del member_module._members[folder]
        member.store.close()
        member.record.close()
