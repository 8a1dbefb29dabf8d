"""The shared memory of one pool, as one process has it mapped.

The parent makes it before any worker needs it and keeps it mapped, so nothing
has to be opened, and no descriptor is needed, when a worker dies. A forked
worker has the mapping from its birth; others map it as soon as they run, and
close the descriptor. So a swept folder, another root directory, another user or
a full disk take nothing away from a pool that lives.

Runs in both processes. Covers where things lie; what they mean is in `ledger`
(records) and `payload` (calls and outcomes).

Layout::

    one page                    `HEADER`
    `CALLED_OFF` cells          numbers of tasks that must not begin any more
    places x `ledger.SIZE`      the workers' records
    places x `STACK`            what faulthandler writes for each worker
    places x ring               the workers' large outcomes
    calls                       large calls, written by the parent

All of it is sparse: memory is taken page by page, as it is first written.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import struct
import weakref

from .ledger import IDENT, SIZE, Record
from .orphan import process_package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

#: The beginning of a memory: the token; size, places and bytes of a ring; and
#: where the host's pickler is named, for workers that have been started already.
HEADER: Final = struct.Struct("=16sQQQQQ")
#: Cells for tasks that were called off: a task's cell is its number modulo this.
CALLED_OFF: Final = 512
#: Bytes of addresses for one worker's stacks; faulthandler writes a few kB.
STACK: Final = 1 << 18
_CALLED_OFF_AT: Final = mmap.PAGESIZE
_RECORDS_AT: Final = _CALLED_OFF_AT + 8 * CALLED_OFF

#: Attribute of a process object that carries a worker's `Seat`. What is set
#: there before the start reaches the worker under every start method.
SEAT: Final = "_poolwarden_seat"


class Memory:
    """The shared memory of one pool, mapped into this process.

    Parameters
    ----------
    mapped : Mapped
        All of it.
    places : int
        For how many workers there are records, stacks and rings.
    ring : int
        Bytes of each ring; 0 for none.
    """

    __slots__ = ("__weakref__", "_called_off", "_mapped", "_view", "places", "ring", "size")

    def __init__(self, mapped: Mapped, places: int, ring: int) -> None:
        self._mapped = mapped
        mapping = mapped.mapping
        self.places = places
        self.ring = ring
        self.size = len(mapping)
        self._view = memoryview(mapping)
        self._called_off = self._view[_CALLED_OFF_AT:_RECORDS_AT].cast("Q")

    def record_start(self, place: int) -> int:
        """Return where in the memory a place's record begins."""
        return _RECORDS_AT + place * SIZE

    def record(self, place: int) -> Record:
        """Return the record of a place."""
        start = self.record_start(place)
        return Record(self._view[start : start + SIZE])

    def stack_start(self, place: int) -> int:
        """Return where in the memory a place's stacks begin."""
        return _RECORDS_AT + self.places * SIZE + place * STACK

    def ring_start(self, place: int) -> int:
        """Return where in the memory a place's ring begins."""
        return _RECORDS_AT + self.places * (SIZE + STACK) + place * self.ring

    @property
    def calls_start(self) -> int:
        """Where in the memory the room for calls begins; it reaches to the end."""
        return self.ring_start(self.places)

    def view(self, start: int, size: int) -> memoryview:
        """Return some bytes of it, to be read or written; to be released soon."""
        return self._view[start : start + size]

    def empty(self, start: int, size: int) -> None:
        """Fill whole pages with zeros and give their memory back to the system."""
        # Where the system cannot give memory back, the bytes are overwritten when they are used again.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._mapped.mapping.madvise(mmap.MADV_REMOVE, start, size)

    def place_of(self, ident: int) -> int | None:
        """Return the place that was set aside for a process."""
        for place in range(self.places):
            start = _RECORDS_AT + place * SIZE + 8 * IDENT
            if int.from_bytes(self._view[start : start + 8], "little") == ident:
                return place
        return None

    def call_off(self, ticket: int) -> None:
        """Have no worker begin a task, unless another is called off whose cell is the same."""
        self._called_off[ticket % CALLED_OFF] = ticket

    def is_called_off(self, ticket: int) -> bool:
        """Return whether a task must not begin."""
        return self._called_off[ticket % CALLED_OFF] == ticket

    def close(self) -> None:
        """Unmap it. If somebody still looks at it, that happens when nobody does any more."""
        # The traceback of an unpickling that failed may keep a view.
        with contextlib.suppress(BufferError):
            self._called_off.release()
            self._view.release()
            self._mapped.close()


def size_of(places: int, ring: int, calls: int) -> int:
    """Return how many bytes of addresses a memory takes."""
    return _RECORDS_AT + places * (SIZE + STACK + ring) + calls


class Mapped:
    """A mapping, and the descriptor of its own that Python keeps for it before 3.13.

    Parameters
    ----------
    fd : int
        Of what is to be mapped; may be closed then. -1 for memory without a file.
    size : int
        How many bytes of it.

    Raises
    ------
    OSError, ValueError, OverflowError
        It cannot be mapped: the limit of addresses, say.
    """

    __slots__ = ("__weakref__", "_own", "_proof", "mapping")

    def __init__(self, fd: int, size: int) -> None:
        self._own, self._proof = -1, (0, 0)
        if fd < 0:
            self.mapping = mmap.mmap(-1, size)
            return
        try:
            self.mapping = mmap.mmap(fd, size, trackfd=False)  # type: ignore[call-arg, call-overload, unused-ignore]
        except TypeError:
            self._map_with_descriptor(fd, size)

    def _map_with_descriptor(self, fd: int, size: int) -> None:
        # The number must not be 0, 1 or 2: what is printed would be written over the records.
        with standard_descriptors_taken():
            self._own = os.dup(fd)
            os.close(self._own)
            # Takes the lowest number that is free, and so did the call above.
            self.mapping = mmap.mmap(fd, size)
        self._proof = proof_of(fd)
        if not is_same(self._own, self._proof):
            self._own = -1
        _mapped.add(self)

    def close(self) -> None:
        """Unmap it, unless that would close a file of the user's: then it stays until the process ends."""
        if self._own >= 0 and not is_same(self._own, self._proof):
            _kept.append(self)
            return
        self.mapping.close()


#: Those with descriptors. A forked process keeps its copies: their ends would close numbers
#: that it may have given to files of its own.
_mapped: weakref.WeakSet[Mapped] = weakref.WeakSet()
_kept: list[Mapped] = []


def _keep() -> None:
    _kept.extend(_mapped)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)


@contextlib.contextmanager
def standard_descriptors_taken() -> Iterator[None]:
    """Let nothing that is opened in a block get the number 0, 1 or 2."""
    taken: list[int] = []
    try:
        while (fd := os.open(os.devnull, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))) <= 2:
            taken.append(fd)
        taken.append(fd)
        yield
    finally:
        for fd in taken:
            os.close(fd)


def identity_of(process: Any) -> int:
    """Return a number that no other process has that this one's parent starts. Either process may ask.

    A pid would not do: it comes back, and differs in another pid namespace.
    """
    # Source: BaseProcess.__init__, the same from 3.10 to 3.15.
    identity = getattr(process, "_identity", None)
    return int(identity[-1]) if identity else 0


def own_process() -> Any:
    """Return this worker's own process object."""
    return importlib.import_module(f"{process_package()}.process").current_process()


def found_by(name: str) -> tuple[int, Memory, bytes]:
    """Find a pool's memory by the pool's name, in a worker that has been started before it was made.

    Returns
    -------
    tuple
        A descriptor of it, the memory, and where the host's pickler is named.

    Raises
    ------
    OSError, ValueError, OverflowError
        There is no way to it from here: another user, another root directory,
        or a system without ``/proc``; or it is not the one that is meant.
    """
    pid, number, token = name.removeprefix("@").split(".")
    fd = os.open(f"/proc/{int(pid)}/fd/{int(number)}", os.O_RDWR | os.O_CLOEXEC)
    try:
        found, size, places, ring, *host = HEADER.unpack(os.pread(fd, HEADER.size, 0))
        # A number alone proves nothing: the parent's program may have closed that descriptor.
        if found.hex() != token:
            raise ValueError("another file has that number")
        return fd, Memory(Mapped(fd, size), places, ring), struct.pack("=QQ", *host)
    except BaseException:
        os.close(fd)
        raise


class Seat:
    """One worker's place in its pool's memory, on its way from the parent to the worker.

    Attributes
    ----------
    memory : Memory or None
        None in a worker that could not map it.
    place : int
        Number of the place.
    calls : Memory or None
        Where large calls lie; the same as `memory` for all but the workers of a
        pool that has grown.
    pool : str
        Names the pool.
    pickler_name : str
        See ``hosts.base.PoolAdapter.pickler_name``.
    reducers : bytes
        The host's own reducers for results, pickled; empty for none.
    fd : int
        Descriptor of `memory` in the parent, and in a forked worker; -1 for none.
    proof : tuple
        Device and inode of `fd`: a number alone proves nothing.
    """

    __slots__ = ("calls", "fd", "memory", "pickler_name", "place", "pool", "proof", "reducers", "send")

    def __init__(
        self,
        pool: str,
        memory: Memory | None,
        place: int,
        calls: Memory | None,
        pickler_name: str,
        reducers: bytes,
        fd: int = -1,
        proof: tuple[int, int] = (0, 0),
        send: Callable[[Memory], Any] | None = None,
    ) -> None:
        self.memory, self.place, self.calls = memory, place, calls
        self.pool, self.pickler_name, self.reducers = pool, pickler_name, reducers
        self.fd, self.proof = fd, proof
        # Makes of a memory what a process that is being spawned can open.
        self.send = send

    def __reduce__(self) -> Any:
        sent: Any = None
        if self.send is not None and self.memory is not None and self.calls is not None:
            sent = self.send(self.memory), self.calls is not self.memory and self.send(self.calls)
            # A worker that gets no descriptor tells of its tasks through the result pipe.
            sent = None if None in sent else sent
        return _arrive, (self.pool, sent, self.place, self.pickler_name, self.reducers)

    def close(self) -> None:
        """Close the descriptor in the worker, which needs it no more, if it is the one that was meant."""
        fd, self.fd = self.fd, -1
        if is_same(fd, self.proof):
            with contextlib.suppress(OSError):
                os.close(fd)


def _arrive(pool: str, sent: Any, place: int, pickler_name: str, reducers: bytes) -> Seat:
    """Make a seat in a spawned worker. An exception here would end it before its first step."""
    memory = calls = None
    fd, proof = -1, (0, 0)
    try:
        if sent is not None:
            fd, memory = _map_sent(sent[0])
            proof = proof_of(fd)
            calls = memory
            if sent[1]:
                other, calls = _map_sent(sent[1])
                os.close(other)
    except Exception:
        # The worker tells of its tasks through the result pipe.
        memory = None
    return Seat(pool, memory, place, calls, pickler_name, reducers, fd, proof)


def _map_sent(sent: tuple[Any, int, int, int]) -> tuple[int, Memory]:
    handle, size, places, ring = sent
    fd = handle.detach()
    return fd, Memory(Mapped(fd, size), places, ring)


def proof_of(fd: int) -> tuple[int, int]:
    """Return device and inode of an open file."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def is_same(fd: int, proof: tuple[int, int]) -> bool:
    """Return whether a descriptor is still the one that `proof_of` was asked of."""
    try:
        return fd >= 0 and proof_of(fd) == proof
    except OSError:
        return False


def keep_high(fd: int) -> int:
    """Return the same file under a number that programs do not close and use again; `fd` is closed.

    A program that closes all it does not know gets low numbers for what it
    opens next; the guard's would be among them.
    """
    try:
        import fcntl
    except ImportError:
        # Such a system has no other way either.
        return fd
    limit = os.sysconf("SC_OPEN_MAX")
    # Three quarters of the usual 1024. A table of descriptors is as large as the largest number.
    lowest = (min(limit, 1024) if limit > 0 else 1024) * 3 // 4
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(lowest, 3))
    except OSError:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return high
