"""Pickled calls and outcomes: small ones inline, larger ones beside the pipe.

A payload of at most `ledger.INLINE_MAX` bytes travels inside the host's own
message. A larger one is put into the pool's folder (memory-backed where there
is such a place), and only the knowledge of where it is travels: up to
`SLOT_MAX` bytes in a slot of one file that everybody keeps open, beyond that
in a file of its own. So every message on the host's pipes stays below
PIPE_BUF, and a death in the middle of a write leaves all of it or nothing;
and one copy into memory and one out of it is faster than a pipe.

Runs in both processes: calls are written by the parent and read by the
worker, outcomes the other way. Nothing here decides what a payload means.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle

from .ledger import INLINE_MAX, SAFE_OPEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

#: Name, inside the pool's folder, of a link to a second folder on another file
#: system, used when the first is full (containers often have 64 MB of shm).
SPILL: Final = "spill"

#: Bytes of a payload that fits into half a slot: one half is the call's, the
#: other the outcome's. A slot takes memory only as far as it was ever written.
SLOT_MAX: Final = 1 << 16

# Where a payload is; flags beside the others of a call or an outcome.
FILE: Final = 0x100
SLOT: Final = 0x200
#: Where the number of a task's slot stands in the flags of a call.
SLOT_SHIFT: Final = 16


class Store:
    """The payloads of one pool that lie beside the pipe.

    Parameters
    ----------
    folder : str
        The pool's private folder.
    loads : callable, optional
        Unpickles as the host does.

    Raises
    ------
    OSError
        The folder is gone.
    """

    def __init__(self, folder: str, loads: Callable[[bytes], Any] = pickle.loads) -> None:
        self.loads = loads
        spill = f"{folder}/{SPILL}"
        self.places: tuple[str, ...] = (folder, spill) if os.path.isdir(spill) else (folder,)
        self._slots = os.open(f"{folder}/slots", os.O_RDWR | os.O_CREAT | SAFE_OPEN, 0o600)
        self._reading: Any = None

    def disown(self) -> None:
        """Write, remove and read nothing any more: all of it is the process's that has forked this one."""
        self.places = ()
        self._slots = -1
        if self._reading is not None:
            # Both processes would move one position in the file.
            self._reading.close()

    def write_slot(self, offset: int, data: bytes) -> bool:
        """Write into a half slot; False if there is no room for it in memory."""
        try:
            return os.pwrite(self._slots, data, offset) == len(data)
        except OSError as error:
            if not is_full(error):
                raise
            return False

    def load(self, where: int, data: bytes, name: str) -> Any:
        """Unpickle a payload; a file stays.

        The file is given to the unpickler because it then reads a large
        ``bytes`` object straight into its final place: 0.8 ms for 10 MB where
        ``loads(read())`` takes 1.5 ms (3.13, tmpfs). It is a buffered one,
        since a raw read returns at most 2 GiB.
        """
        if not where & (SLOT | FILE):
            return self.loads(data)
        if where & SLOT or self.loads is not pickle.loads:
            return self.loads(self.read(where, data, name))
        with open(self._find(name), "rb") as self._reading:
            return pickle.Unpickler(self._reading).load()

    def read(self, where: int, data: bytes, name: str) -> bytes:
        """Return a payload as it is; a file stays. Parameters as for `load`."""
        if where & SLOT:
            offset, size = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")
            return os.pread(self._slots, size, offset)
        if not where & FILE:
            return data
        with open(self._find(name), "rb") as file:
            return file.read()

    def _find(self, name: str) -> str:
        first = f"{self.places[0]}/{name}"
        return first if len(self.places) == 1 or os.path.exists(first) else f"{self.places[1]}/{name}"

    def mark(self, name: str) -> None:
        """Make an empty file.

        Raises
        ------
        OSError
            There is no room.
        """
        os.close(os.open(f"{self.places[0]}/{name}", os.O_WRONLY | os.O_CREAT | SAFE_OPEN, 0o600))

    def is_marked(self, name: str) -> bool:
        """Return whether `mark` has made this file."""
        return os.path.exists(f"{self.places[0]}/{name}")

    def discard(self, name: str) -> None:
        """Remove a payload's file wherever it is; nothing happens when it is nowhere."""
        for place in self.places:
            with contextlib.suppress(OSError):
                os.unlink(f"{place}/{name}")

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._slots)


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

    def dump(self, obj: Any, store: Store, name: str, offset: int = -1) -> tuple[int, bytes]:
        """Pickle `obj`; return where the bytes are, and the bytes or their place.

        Parameters
        ----------
        obj : object
            Anything.
        store : Store
            Takes what is too large to be sent.
        name : str
            The payload's own file, if it takes one.
        offset : int
            Of its half slot, in bytes; negative if it has none.

        Raises
        ------
        OSError
            ENOSPC when there is no room for it anywhere.
        Exception
            Whatever the pickler raises.
        """
        try:
            return self._dump(obj, store, store.places[0], name, offset)
        except OSError as error:
            # A full place is tried again in the other, from the beginning:
            # what a pickler had not written yet is lost.
            if not is_full(error) or len(store.places) == 1:
                raise
        return self._dump(obj, store, store.places[1], name, offset)

    def _dump(self, obj: Any, store: Store, place: str, name: str, offset: int) -> tuple[int, bytes]:
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
        sink.place, sink.name, sink.forks = place, name, _forks
        try:
            pickler.dump(obj)
            found = sink.finish(store, offset)
        except BaseException:
            sink.reset()
            store.discard(name)
            raise
        if self._reuses:
            # Now, not before the next use: the memo keeps the user's objects.
            pickler.clear_memo()
            free.append((pickler, sink))
        return found

    def dumps(self, obj: Any) -> bytes:
        """Return `obj` pickled, however large."""
        file = io.BytesIO()
        self._class(file).dump(obj)
        return file.getvalue()


def itself(obj: Any) -> Any:
    """Return `obj`: for the ``__reduce__`` of what is to be another object in the worker.

    Here, so that a worker that unpickles it imports nothing of the parent's.
    """
    return obj


class Sink:
    """The file that a pickler writes to: memory at first, a real file when it grows.

    A pickler hands large ``bytes`` to ``write`` without copying them, so a
    10 MB result is copied once, into the page cache.
    """

    __slots__ = ("_fd", "_parts", "_size", "forks", "name", "place")

    def __init__(self) -> None:
        self.place = self.name = ""
        self.forks = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._fd = -1

    def write(self, data: Any) -> int:
        """Take what the pickler has; called by it."""
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        self._size += size
        if self._fd < 0:
            if self._size <= SLOT_MAX:
                # The pickler may use the memory behind a view again.
                self._parts.append(data if type(data) is bytes else bytes(data))
                return size
            self._begin_file()
        self._check()
        write_all(self._fd, data)
        return size

    def finish(self, store: Store, offset: int) -> tuple[int, bytes]:
        """Return where the payload is, and it or its place; be ready for the next."""
        size, parts = self._size, self._parts
        if self._fd < 0:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            if size <= INLINE_MAX:
                parts.clear()
                self._size = 0
                return 0, data
            if offset >= 0 and store.write_slot(offset, data):
                self.reset()
                return SLOT, offset.to_bytes(8, "little") + size.to_bytes(4, "little")
            self._begin_file()
        self.reset()
        return FILE, size.to_bytes(8, "little")

    def reset(self) -> None:
        """Be ready for the next payload."""
        self._parts = []
        self._size = 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self) -> None:
        # The file is the other process's.
        if self.forks != _forks:
            raise OSError(errno.EPERM, "this process was forked while an object was pickled")

    def _begin_file(self) -> None:
        self._check()
        self._fd = os.open(
            f"{self.place}/{self.name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | SAFE_OPEN, 0o600
        )
        write_all(self._fd, b"".join(self._parts))


def is_full(error: OSError) -> bool:
    """Return whether an error says that a file system has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_all(fd: int, data: Any) -> None:
    """Write all of `data`, in as many pieces as the system takes."""
    view = memoryview(data).cast("B")
    while view.nbytes:
        view = view[os.write(fd, view) :]


#: How many forks lie between this process and the first of its line.
_forks = 0


def _count() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)
