"""Pickled calls and outcomes: small ones inline, larger ones in shared memory.

A payload of at most `ledger.INLINE_MAX` bytes travels inside the host's own
message. A larger one is put into the pool's shared memory, and only the
knowledge of where it is travels. So every message on the host's pipes stays
below PIPE_BUF, and a death in the middle of a write leaves all of it or
nothing; and one copy into memory and one out of it is faster than a pipe.

What finds no room there takes the host's own pipe: a call inside of its message,
an outcome in pieces below PIPE_BUF (see `note`). Each payload in memory stands
behind the number of its task and its length. What does not match is never
delivered.

Runs in both processes: calls are written by the parent and read by the
worker, outcomes the other way. Nothing here decides what a payload means.
"""

from __future__ import annotations

import pickle
import struct

from .ledger import INLINE_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, Protocol

    from .memory import Memory

    class Room(Protocol):
        """Takes payloads that are too large for a message."""

        def put(self, number: int, parts: list[Any], size: int) -> bytes | None:
            """Store a task's payload; return where it lies, for `load`, or None if there is no room."""


# Where a payload is; flags beside the others of a call or an outcome.
MEMORY: Final = 0x100
PIECES: Final = 0x200

#: Before each payload in memory: its task's number, and its own length in bytes.
HEAD: Final = struct.Struct("=QQ")
#: In a message: where the payload begins (with its head), and its length. An
#: outcome's goes on with the place of its worker, and with what the ring had
#: taken in when it was there.
PLACE: Final = struct.Struct("=QQ")
RING_PLACE: Final = struct.Struct("=QQQQ")


class MismatchError(Exception):
    """What lies in memory is not what the message speaks of."""


def write(memory: Memory, start: int, number: int, parts: list[Any], size: int) -> None:
    """Store a payload with its head, which takes `HEAD.size` bytes more."""
    with memory.view(start, HEAD.size + size) as view:
        HEAD.pack_into(view, 0, number, size)
        end = HEAD.size
        for part in parts:
            begin, end = end, end + len(part)
            view[begin:end] = part


class Reader:
    """Reads payloads, in either process.

    Parameters
    ----------
    memory : Memory or None
        Where large calls lie. None in a worker that could not map it.
    loads : callable
        Unpickles as the host does.
    """

    def __init__(self, memory: Memory | None, loads: Callable[[Any], Any] = pickle.loads) -> None:
        self.memory = memory
        self.loads = loads

    def load(self, where: int, data: bytes, number: int) -> Any:
        """Unpickle a call.

        Raises
        ------
        OSError
            It lies in memory that this process has not mapped.
        MismatchError
            What lies there is something else.
        """
        if not where & MEMORY:
            return self.loads(data)
        if self.memory is None:
            raise OSError("the pool's shared memory could not be mapped")
        return load(self.memory, data, number, self.loads)

    def read(self, where: int, data: bytes, number: int) -> bytes:
        """Return a call as it is. Parameters and exceptions as for `load`."""
        if not where & MEMORY:
            return data
        if self.memory is None:
            raise OSError("the pool's shared memory could not be mapped")
        return bytes(load(self.memory, data, number, bytes))


def load(memory: Memory, data: bytes, number: int, loads: Callable[[Any], Any]) -> Any:
    """Give a payload in memory to `loads`; `data` says where it lies."""
    start, size = PLACE.unpack_from(data)
    with memory.view(start, HEAD.size + size) as view:
        if len(view) < HEAD.size + size or HEAD.unpack_from(view) != (number, size):
            raise MismatchError(f"the {size} bytes of task {number} are not where they should be")
        with view[HEAD.size :] as content:
            # Some hosts' functions take no buffers but bytes.
            return loads(content if loads is pickle.loads else bytes(content))


class Dumper:
    """Pickles with the host's own pickler class; any thread may use it.

    Parameters
    ----------
    pickler_class : callable
        Called with one argument, the file; returns a pickler.

    Notes
    -----
    A C pickler is used again and again: that takes 0.9 us for a small call
    where making a ForkingPickler anew takes 2.2 us (3.13), since its reducers
    are copied into each instance. They are compared before each use, so that
    one registered meanwhile counts.
    """

    def __init__(self, pickler_class: Any) -> None:
        self._class = pickler_class
        self._tables = (
            getattr(pickler_class, "_copyreg_dispatch_table", None),
            getattr(pickler_class, "_extra_reducers", None),
        )
        is_c = isinstance(pickler_class, type) and issubclass(pickler_class, pickle.Pickler)
        self._reuses = is_c and None not in self._tables
        self._reducers: Any = None
        self._free: list[tuple[Any, Sink]] = []

    def dump(self, obj: Any, room: Room | None, number: int) -> tuple[int, bytes]:
        """Pickle `obj`; return where the bytes are, and the bytes or their place.

        Parameters
        ----------
        obj : object
            Anything.
        room : Room or None
            Takes what is too large to be sent. What it does not take is returned.
        number : int
            The task's.

        Raises
        ------
        Exception
            Whatever the pickler raises.
        """
        if self._reuses and self._reducers != self._tables:
            # A new list, so that what is in use now does not come back.
            self._free = []
            self._reducers = tuple(dict(table) for table in self._tables)  # type: ignore[arg-type]
        free = self._free
        try:
            pickler, sink = free.pop()
        except IndexError:
            sink = Sink()
            pickler = self._class(sink)
        try:
            pickler.dump(obj)
            found = sink.finish(room, number)
        except BaseException:
            sink.reset()
            raise
        if self._reuses:
            # Now, not before the next use: the memo keeps the user's objects.
            pickler.clear_memo()
            free.append((pickler, sink))
        return found

    def dumps(self, obj: Any) -> bytes:
        """Return `obj` pickled, however large."""
        sink = Sink()
        self._class(sink).dump(obj)
        return sink.finish(None, 0)[1]


def itself(obj: Any) -> Any:
    """Return `obj`: for the ``__reduce__`` of what is to be another object in the worker.

    Here, so that a worker that unpickles it imports nothing of the parent's.
    """
    return obj


class Sink:
    """The file that a pickler writes to.

    It is memory only. While a pickler runs, so may the user's code, which may
    close a descriptor and open another file under its number.

    A pickler hands large ``bytes`` to ``write`` without copying them, so a
    10 MB result is copied once, into the shared memory.
    """

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> int:
        """Take what the pickler has; called by it."""
        # The pickler may use the memory behind a view again.
        part = data if type(data) is bytes else bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def finish(self, room: Room | None, number: int) -> tuple[int, bytes]:
        """Return where the payload is, and it or its place; be ready for the next."""
        size, parts = self._size, self._parts
        self.reset()
        if size > INLINE_MAX and room is not None and (place := room.put(number, parts, size)) is not None:
            return MEMORY, place
        return 0, parts[0] if len(parts) == 1 else b"".join(parts)

    def reset(self) -> None:
        """Be ready for the next payload."""
        self._parts = []
        self._size = 0


# Messages of a worker to its parent through the host's result pipe, beside results.
HERE: Final = 0  # (identity): it has joined, without a record
BEGAN: Final = 1  # (identity, ticket): it has no record, and begins a task
PIECE: Final = 2  # (ticket, bytes): the next part of an outcome
KEPT: Final = 3  # (ticket, item, bytes): the result of a chunk's item

#: The job of a note, where a host looks for one: of none.
NOTE: Final = ("poolwarden", "note")

#: By pool, what is told of notes in this process.
listeners: dict[str, Callable[..., object]] = {}


class Note:
    """Something told to the parent: it is told by being unpickled there, in the host's result thread.

    So it arrives in order with the results, and the host need not know of it.
    """

    __slots__ = ("_told",)

    def __init__(self, *told: Any) -> None:
        self._told = told

    def __reduce__(self) -> Any:
        return _listen, self._told


class NoteMessage(tuple):  # type: ignore[type-arg]
    """A message with a note: nobody's answer, as a pool reads it and as an executor does.

    An executor that was unguarded meanwhile reads it by itself, and its thread
    would end by what it does not know.
    """

    __slots__ = ()
    work_id = exit_pid = exception = result = None

    def __reduce__(self) -> Any:
        return NoteMessage, (tuple(self),)


def _listen(pool: str, kind: int, *values: Any) -> None:
    listener = listeners.get(pool)
    if listener is not None:
        listener(kind, *values)
