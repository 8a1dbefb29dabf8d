"""The results of a chunk's items, each kept as soon as it is there.

With the option `KEEP` of a call, an item whose result was kept need not run
again after the death of its worker. Written by the worker, read by the parent
while no worker writes; a worker imports this only when it has such a chunk.
"""

from __future__ import annotations

import os

from .ledger import SAFE_OPEN
from .payload import Store, is_full, write_all


class Frames:
    """The results of a chunk's items, one after the other in a file. Worker.

    Parameters
    ----------
    store : Store
        Where the file lies; it moves to the second place when the first is full.
    name : str
        Of the file; what is in it already stays.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._places = list(store.places)
        self._name = name
        if not os.path.exists(self._path) and len(self._places) > 1 and os.path.exists(self._spilled):
            del self._places[0]
        self._fd = self._open(self._path)

    def append(self, item: int, data: bytes) -> None:
        """Append one item's pickled result.

        Raises
        ------
        OSError
            ENOSPC when there is no room anywhere.
        """
        frame = item.to_bytes(8, "little") + len(data).to_bytes(8, "little") + data
        end = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            write_all(self._fd, frame)
        except OSError as error:
            os.ftruncate(self._fd, end)
            if not is_full(error) or len(self._places) == 1:
                raise
            self._move()
            write_all(self._fd, frame)

    def _move(self) -> None:
        # Emptied: a worker that died in a move may have left a part there.
        fd = self._open(self._spilled, os.O_TRUNC)
        with open(self._path, "rb") as file:
            while part := file.read(1 << 20):
                write_all(fd, part)
        # The old one goes last: until then it is the one that counts.
        os.unlink(self._path)
        os.close(self._fd)
        self._fd = fd
        del self._places[0]

    @property
    def _path(self) -> str:
        return f"{self._places[0]}/{self._name}"

    @property
    def _spilled(self) -> str:
        return f"{self._places[1]}/{self._name}"

    @staticmethod
    def _open(path: str, flags: int = 0) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | SAFE_OPEN | flags, 0o600)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._fd)


def read_frames(store: Store, name: str) -> dict[int, bytes]:
    """Return a chunk's pickled results by item; only while no worker appends. Parent.

    A last frame that a death left incomplete is cut off, so that the next
    worker can append.
    """
    frames: dict[int, bytes] = {}
    for place in store.places:
        if not os.path.exists(f"{place}/{name}"):
            continue
        with open(f"{place}/{name}", "r+b") as file:
            whole = 0
            while len(head := file.read(16)) == 16:
                body = file.read(int.from_bytes(head[8:], "little"))
                if len(body) < int.from_bytes(head[8:], "little"):
                    break
                frames[int.from_bytes(head[:8], "little")] = body
                whole = file.tell()
            file.truncate(whole)
        break
    return frames
