"""Pickled calls and outcomes: small ones inline, large ones beside the pipe.

A payload of at most `ledger.INLINE_MAX` bytes travels inside the host's own
message. A larger one is written to a file in the pool's folder (memory-backed
where there is such a place), and only the knowledge that it is there travels.
That keeps every message on the host's pipes below PIPE_BUF, so that a death
in the middle of a write leaves either all of it or nothing; and one copy into
memory and one out of it is faster than a pipe.

Runs in both processes: calls are written by the parent and read by the
worker, outcomes the other way. Nothing here decides what a payload means.
"""

from __future__ import annotations

import errno
import os
import pickle

from .ledger import INLINE_MAX, SAFE_OPEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeAlias

    Dumper: TypeAlias = Callable[[Any, Any], None]

#: Name, inside the pool's folder, of a link to a second folder on another file
#: system, used when the first is full (containers often have 64 MB of shm).
SPILL: Final = "spill"

# What `data` holds when the payload is beside the pipe: where it is.
BESIDE: Final = (b"m", b"s")


class Sink:
    """The file that a pickler writes to: memory at first, a real file when it grows.

    A pickler hands large ``bytes`` to ``write`` without copying them, so a
    10 MB result is copied once, into the page cache.
    """

    __slots__ = ("_fd", "_parts", "_path", "_size")

    def __init__(self, path: str) -> None:
        self._path = path
        self._parts: list[bytes] = []
        self._size = 0
        self._fd = -1

    def write(self, data: Any) -> int:
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        self._size += size
        if self._fd < 0:
            if self._size <= INLINE_MAX:
                # bytes(): the pickler may reuse the buffer behind a memoryview
                self._parts.append(bytes(data))
                return size
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | SAFE_OPEN
            self._fd = os.open(self._path, flags, 0o600)
            if self._parts:
                _write_all(self._fd, b"".join(self._parts))
        _write_all(self._fd, data)
        return size

    def finish(self) -> bytes | None:
        """Return the bytes, or None when they are in the file."""
        if self._fd < 0:
            return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.close()
        return None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while view.nbytes:
        view = view[os.write(fd, view) :]


def dump(dumper: Dumper, obj: Any, folder: str, name: str) -> tuple[bool, bytes]:
    """Pickle `obj` and return where the bytes are.

    Parameters
    ----------
    dumper : callable
        ``dumper(obj, file)``: the host's own pickler.
    folder, name : str
        Where a large payload is written.

    Returns
    -------
    beside : bool
        True when the payload is in a file.
    data : bytes
        The payload, or which of the two places holds the file.

    Raises
    ------
    OSError
        ENOSPC when neither place has room.
    Exception
        Whatever the pickler raises.
    """
    for place, mark in zip((folder, f"{folder}/{SPILL}"), BESIDE, strict=True):
        path = f"{place}/{name}"
        sink = Sink(path)
        try:
            dumper(obj, sink)
            data = sink.finish()
        except BaseException as error:
            sink.close()
            discard(folder, name)
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if full and mark == BESIDE[0] and os.path.isdir(f"{folder}/{SPILL}"):
                continue
            raise
        return (True, mark) if data is None else (False, data)
    raise AssertionError("unreachable")


def load(beside: bool, data: bytes, folder: str, name: str) -> Any:
    """Unpickle a payload that `dump` wrote; the file, if any, stays.

    The raw file is given to the unpickler because it then reads a large
    ``bytes`` object straight into its final place: 0.8 ms for 10 MB where
    ``loads(read())`` takes 1.5 ms (3.13, tmpfs).
    """
    if not beside:
        return pickle.loads(data)
    with open(locate(data, folder, name), "rb", buffering=0) as file:
        return pickle.Unpickler(file).load()


def locate(data: bytes, folder: str, name: str) -> str:
    """Return the path of a payload that lies beside the pipe."""
    return f"{folder}/{name}" if data == BESIDE[0] else f"{folder}/{SPILL}/{name}"


def discard(folder: str, name: str) -> None:
    """Remove a payload's file wherever it is; nothing happens when it is nowhere."""
    for path in (f"{folder}/{name}", f"{folder}/{SPILL}/{name}"):
        try:
            os.unlink(path)
        except OSError:
            continue
        return


def append_frame(fd: int, item: int, data: bytes) -> None:
    """Append one item's pickled result to a chunk's file, in one write."""
    _write_all(fd, item.to_bytes(8, "little") + len(data).to_bytes(8, "little") + data)


def read_frames(path: str) -> dict[int, bytes]:
    """Return the pickled results by item; only while no worker appends.

    A last frame that a death left incomplete is cut off, so that the next
    worker can append.
    """
    frames: dict[int, bytes] = {}
    try:
        with open(path, "r+b") as file:
            whole = 0
            while len(head := file.read(16)) == 16:
                body = file.read(int.from_bytes(head[8:], "little"))
                if len(body) < int.from_bytes(head[8:], "little"):
                    break
                frames[int.from_bytes(head[:8], "little")] = body
                whole = file.tell()
            file.truncate(whole)
    except FileNotFoundError:
        pass
    return frames
