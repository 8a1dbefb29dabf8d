"""The shared memory of one pool, as the parent makes it and gives it out.

Covers places for workers and room for calls. Runs in the parent: places are
given out by whoever starts workers, calls are stored by any thread, outcomes
are read in the host's result thread. What lies where is in `worker.memory`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import secrets
import sys
import threading
import weakref
from typing import Any, Final

from ..errors import ConfigurationError
from ..system.free_memory import free_memory
from ..worker.ledger import IDENT, RING_LIMIT, RING_SENT, RING_TAKEN, SIZE, Record
from ..worker.memory import (
    HEADER,
    SEAT,
    STACK,
    Mapped,
    Memory,
    Seat,
    identity_of,
    is_same,
    keep_high,
    proof_of,
    size_of,
    standard_descriptors_taken,
)
from ..worker.orphan import PACKAGES
from ..worker.payload import HEAD, PLACE, RING_PLACE, write

#: Bytes of addresses for a worker's outcomes and for a pool's calls, tried in this order.
_SIZES: Final = ((64 << 20, 256 << 20), (4 << 20, 16 << 20), (0, 0))
#: The same where addresses are limited (``ulimit -v``): the program needs them more, for its threads say.
_FEW: Final = ((1 << 20, 4 << 20), (0, 0))
#: Of the memory that is free, the share that the outcomes of a pool may take while they wait to be read.
_SHARE: Final = 8
#: Bytes that a worker's outcomes may take in any case.
_LEAST: Final = 1 << 20
#: Bytes of a ring whose pages stay for the next worker in that place.
_HOT: Final = 16 << 20


class Place:
    """One worker's part of the memory, from before its start until all is read that it has left there.

    Attributes
    ----------
    ident : int
        Of the worker's process (`worker.memory.identity_of`).
    number : int
        Of the place, in its memory.
    record : Record
        The worker's.
    """

    __slots__ = ("_part", "ident", "number", "record")

    def __init__(self, part: Part, number: int, ident: int, limit: int) -> None:
        self._part, self.number = part, number
        self.ident = ident
        self.record: Record = part.memory.record(number)
        self.record.cells[RING_LIMIT] = limit
        self.record.cells[IDENT] = ident

    def seat(self, pool: PoolMemory) -> Seat:
        """Return what the worker is given."""
        part, main = self._part, pool.main
        return Seat(
            pool.name, part.memory, self.number, main.memory, pool.pickler_name, pool.reducers,
            part.fd, part.proof, pool.send,
        )  # fmt: skip

    def stack_size(self) -> int:
        """Return how many bytes faulthandler has written for this worker."""
        memory, start = self._part.memory, self._part.memory.stack_start(self.number)
        with memory.view(start, STACK) as view:
            # Text: it ends where the zeros begin. Read in steps, since a look takes memory.
            for end in range(mmap.PAGESIZE, STACK, mmap.PAGESIZE):
                page = bytes(view[end - mmap.PAGESIZE : end])
                if page[-1] == 0:
                    return end - mmap.PAGESIZE + len(page.rstrip(b"\0"))
        return STACK

    def stack(self, start: int) -> str:
        """Return what faulthandler has written for this worker behind byte `start`."""
        memory = self._part.memory
        with memory.view(memory.stack_start(self.number), self.stack_size()) as view:
            return str(view[start:], "utf-8", "replace")

    @property
    def memory(self) -> Memory:
        """The memory it is a part of."""
        return self._part.memory

    @property
    def proof(self) -> tuple[int, int]:
        """Device and inode of the memory's file."""
        return self._part.proof

    def is_drained(self) -> bool:
        """Return whether all outcomes were read that the worker has sent from here."""
        return self.record.cells[RING_TAKEN] >= self.record.cells[RING_SENT]

    def free(self) -> None:
        """Have the place ready for another worker; this one has ended."""
        memory = self._part.memory
        with contextlib.suppress(ValueError):
            self.record.close()
            for start, size in (
                (memory.stack_start(self.number), STACK),
                (memory.ring_start(self.number) + _HOT, memory.ring - _HOT),
            ):
                if size > 0:
                    memory.empty(start, size)
            with memory.view(memory.record_start(self.number), SIZE) as page:
                page[:] = bytes(SIZE)
            self._part.free.append(self.number)


class Part:
    """One mapping, and its places that are free.

    Parameters
    ----------
    places : int
        How many workers there is room for.
    calls : bool
        Whether it is to have room for calls.

    Raises
    ------
    OSError, ValueError, OverflowError
        Not even the records could be mapped.
    """

    def __init__(self, places: int, *, calls: bool) -> None:
        for ring, room in _FEW if _are_addresses_limited() else _SIZES:
            size = size_of(places, ring, room if calls else 0)
            try:
                self.fd, mapped = _make(size)
                break
            except (OSError, ValueError, OverflowError):
                if not ring:
                    raise
        self.proof = proof_of(self.fd) if self.fd >= 0 else (0, 0)
        self.memory = Memory(mapped, places, ring)
        self.token = secrets.token_bytes(16)
        self.write_header(bytes(PLACE.size))
        # The one used last is used next: its memory is there already.
        self.free = list(range(places - 1, -1, -1))

    def write_header(self, host: bytes) -> None:
        """Say what the memory is, and where the host's pickler is named."""
        memory = self.memory
        with memory.view(0, HEADER.size) as view:
            numbers = memory.size, memory.places, memory.ring
            HEADER.pack_into(view, 0, self.token, *numbers, *PLACE.unpack(host))

    def close(self) -> None:
        """Unmap it and close its descriptor."""
        fd, self.fd = self.fd, -1
        if is_same(fd, self.proof):
            os.close(fd)
        self.memory.close()


def _has_not_started(process: Any) -> bool:
    try:
        # A stand-in for a process, in a test say, need not have one.
        return getattr(process, "pid", None) is None
    except ValueError:
        # Somebody has closed it, as is done with processes that have ended.
        return False


def _are_addresses_limited() -> bool:
    try:
        import resource
    except ImportError:  # Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _make(size: int) -> tuple[int, Mapped]:
    """Return a descriptor, -1 for none, and a new mapping."""
    if hasattr(os, "memfd_create"):
        # No descriptor left, or a limit of file sizes: forked workers need none.
        with contextlib.suppress(OSError), standard_descriptors_taken():
            fd = keep_high(os.memfd_create("poolwarden", os.MFD_CLOEXEC))
            try:
                os.ftruncate(fd, size)
                return fd, Mapped(fd, size)
            except BaseException:
                os.close(fd)
                raise
    return -1, Mapped(-1, size)


class PoolMemory:
    """All shared memory of one pool.

    Parameters
    ----------
    workers : int
        How many there will be at a time, as far as that is known.
    pickler_name : str
        The host's; workers are told of it.

    Attributes
    ----------
    name : str
        Names the pool to its workers.
    calls : CallRoom
        Takes large calls.
    reducers : bytes
        The host's own reducers for results, pickled; workers are told of them.

    Raises
    ------
    ConfigurationError
        Not even the records could be mapped.
    """

    def __init__(self, workers: int, pickler_name: str) -> None:
        self._pid = os.getpid()
        self.pickler_name = pickler_name
        self.reducers = b""
        self._limit = max(free_memory() // _SHARE // max(workers, 1), _LEAST)
        try:
            # More than workers: a place is free again only when all is read that lies in it.
            self._parts = [Part(2 * workers + 6, calls=True)]
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"poolwarden needs some shared memory for its records, and cannot map it ({error}). "
                "Allow the program more memory or addresses (ulimit -v)."
            ) from error
        # By its name a worker that has been started already finds the memory.
        self.name = f"@{self._pid}.{self.main.fd}.{self.main.token.hex()}"
        self.calls = CallRoom(self.main.memory)
        self._names_host = False
        self._places: dict[int, Place] = {}  # by identity
        # Weak: whoever keeps a process object keeps its pipes open.
        self._starting: list[tuple[weakref.ref[Any], Place]] = []
        self._drained_later: set[int] = set()

    @property
    def main(self) -> Part:
        """The part that every worker maps."""
        return self._parts[0]

    def prepare(self, process: Any) -> None:
        """Give a process that is about to be started its place. Only by who starts workers, one at a time."""
        if os.getpid() != self._pid:
            # A forked process has the parent's places mapped, and none of its own.
            return
        for reference, place in self._starting:
            # Processes are started one after the other: this start has failed.
            if (earlier := reference()) is None or _has_not_started(earlier):
                self._forget(place)
        self._starting.clear()
        part = next((part for part in self._parts if part.free), None)
        if part is None:
            try:
                part = Part(self.main.memory.places, calls=False)
            except (OSError, ValueError, OverflowError):
                # The worker tells of its tasks through the result pipe.
                return
            self._parts.append(part)
        place = self._take(part, process)
        setattr(process, SEAT, place.seat(self))
        self._starting.append((weakref.ref(process), place))

    def note_started(self, process: Any) -> None:
        """Note that a process that was given a place has been started."""
        # It has arrived; here it would keep the memory as long as somebody keeps the process.
        vars(process).pop(SEAT, None)
        self._starting = [entry for entry in self._starting if entry[0]() is not process]

    def place_of(self, process: Any) -> Place | None:
        """Return the place that a process was given, by `prepare` or `adopt`."""
        return self._places.get(identity_of(process))

    def adopt(self, process: Any) -> Place | None:
        """Set a place aside for a worker that has been started already; None if there is none."""
        if (found := self.place_of(process)) is not None:
            return found
        if not self._names_host:
            self._names_host = True
            host = pickle.dumps((self.pickler_name, self.reducers))
            self.main.write_header(self.calls.put(0, [host], len(host)) or bytes(PLACE.size))
        return self._take(self.main, process) if self.main.free else None

    def _take(self, part: Part, process: Any) -> Place:
        place = Place(part, part.free.pop(), identity_of(process), self._limit)
        self._places[place.ident] = place
        return place

    def release(self, place: Place) -> None:
        """Give a dead worker's place to others, as soon as all is read that it has left there."""
        if place.is_drained():
            self._forget(place)
        else:
            self._drained_later.add(place.ident)

    def _forget(self, place: Place) -> None:
        if self._places.pop(place.ident, None) is not None:
            place.free()

    def note_read(self, data: bytes) -> None:
        """Note that a worker's outcome was read, or never will be. Result thread."""
        if len(data) != RING_PLACE.size:
            return
        ident, mark = RING_PLACE.unpack(data)[2:]
        place = self._places.get(ident)
        if place is None:
            return
        with contextlib.suppress(ValueError):
            cells = place.record.cells
            cells[RING_TAKEN] = max(cells[RING_TAKEN], mark)
            if ident in self._drained_later and place.is_drained():
                self._drained_later.discard(ident)
                self._forget(place)

    def memory_of(self, data: bytes) -> Memory:
        """Return the memory that a worker's outcome lies in.

        Raises
        ------
        LookupError
            That worker has no place any more.
        """
        return self._places[RING_PLACE.unpack(data)[2]].memory

    def send(self, memory: Memory) -> Any:
        """Return what the process that is being spawned can open; None if there is no such thing."""
        part = next(part for part in self._parts if part.memory is memory)
        # The package that spawns the process hands the descriptor over. The other one would serve it
        # through a socket, with a key that the process does not have.
        for name in PACKAGES:
            context: Any = sys.modules.get(f"{name}.context")
            if context is not None and context.get_spawning_popen() and is_same(part.fd, part.proof):
                duplicate: Any = sys.modules[f"{name}.reduction"].DupFd
                return duplicate(part.fd), memory.size, memory.places, memory.ring
        return None

    def close(self) -> None:
        """Let go of it; who has it mapped keeps it."""
        for place in list(self._places.values()):
            # Whoever still looks at it may keep it mapped for a while.
            with contextlib.suppress(BufferError):
                place.record.close()
        self._places.clear()
        for part in self._parts:
            part.close()


class CallRoom:
    """Room for large calls; any thread may store one.

    Parameters
    ----------
    memory : Memory
        The room is its end.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._next = memory.calls_start
        self._extending = threading.Lock()
        # Starts of blocks by their size, a power of two. The one used last is used next: its memory
        # is there already.
        self._free: dict[int, list[int]] = {}

    def put(self, number: int, parts: list[Any], size: int) -> bytes | None:
        """Store a call; see `worker.payload.Room`."""
        start = self._take(_block(size))
        if start is None:
            return None
        try:
            write(self._memory, start, number, parts, size)
        except ValueError:
            # Another thread has ended the pool since.
            return None
        return PLACE.pack(start, size)

    def _take(self, block: int) -> int | None:
        # One call in C each, so that neither another thread nor a signal's handler comes between.
        with contextlib.suppress(IndexError):
            return self._free.setdefault(block, []).pop()
        # A handler that interrupts whoever holds the lock gets none, and its call takes the pipe.
        if not self._extending.acquire(blocking=False):
            return None
        try:
            start = self._next
            if start + block > self._memory.size:
                return None
            self._next = start + block
            return start
        finally:
            self._extending.release()

    def disown(self) -> None:
        """Have no room any more, in a process that was forked: all of it is the parent's."""
        self._next, self._free = self._memory.size, {}

    def free(self, place: bytes) -> None:
        """Give the room of a call back: no worker will read it any more."""
        start, size = PLACE.unpack(place)
        block = _block(size)
        if block > _HOT:
            self._memory.empty(start, block)
        self._free.setdefault(block, []).append(start)


def _block(size: int) -> int:
    return max(1 << (HEAD.size + size - 1).bit_length(), mmap.PAGESIZE)
