"""The private folder where a pool's records and payloads live.

Covers making it, and removing it whatever happened: when the pool ends, at
exit, and, after a SIGKILL of this process, by the next process that guards a
pool. Runs in the parent, from any thread.

One folder a process, on memory-backed storage where there is such a place,
with one subfolder a pool. Its owner holds a `flock` on a file in it; the
kernel drops that lock with the process, so a folder whose lock can be had
belongs to nobody. (A pid in the name would not do: containers share
``/dev/shm`` without sharing pids, and pids come back.)
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import shutil
import tempfile
import threading
import time
from multiprocessing import util
from typing import Final

from ..errors import ConfigurationError
from ..worker.ledger import SIZE
from ..worker.member import HOST_FILE
from ..worker.payload import SPILL

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_OWNER: Final = "owner"
_UNFINISHED: Final = ".new"
#: Seconds after which an unfinished folder is taken for abandoned.
_ABANDONED: Final = 60.0


_NO_PLACE: Final = (
    "poolwarden needs a private folder for its records and found no place for one ({}). "
    "Free some space there, or set TMPDIR to a writable directory."
)


def reserve(fd: int) -> None:
    """Make sure that there is room for some records.

    Raises
    ------
    OSError
        There is not; a nearly full file system writes less than it is asked to.
    """
    room = bytes(64 * SIZE)
    if os.write(fd, room) < len(room):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Home:
    """This process's folder in one place.

    Raises
    ------
    OSError
        The place is missing, full, read-only, or someone else's.
    """

    def __init__(self, place: str) -> None:
        _sweep(place)
        prefix = f"{place}/{_prefix()}{secrets.token_hex(6)}"
        unfinished = prefix + _UNFINISHED
        os.mkdir(unfinished, 0o700)
        self.path = unfinished
        self.lock = -1
        try:
            self.lock = os.open(f"{unfinished}/{_OWNER}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            if fcntl is not None:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            reserve(self.lock)
            # Renamed only now, so that nobody sweeps it before it is locked.
            os.rename(unfinished, prefix)
            self.path = prefix
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


class PoolFolder:
    """One pool's folder; `path` is what workers are given.

    Parameters
    ----------
    host : str
        What workers have to know of the host (`worker.member.HOST_FILE`).

    Raises
    ------
    ConfigurationError
        No place could be used; the message names each and why.
    """

    def __init__(self, host: str) -> None:
        self._paths: list[str] = []
        with _lock:
            name = str(next(_numbers))
            # Of what is collected meanwhile none is the last.
            _open.add(name)
            try:
                self._make(name, host)
            finally:
                _open.discard(name)
                if not _open:
                    _remove_homes()

    def _make(self, name: str, host: str) -> None:
        failures: list[str] = []
        for home in _homes():
            path = f"{home.path}/{name}"
            try:
                os.mkdir(path, 0o700)
                self._fill(path, host)
                self._paths.append(path)
            except OSError as error:
                shutil.rmtree(path, ignore_errors=True)
                failures.append(f"{home.path}: {error.strerror or error}")
        if not self._paths:
            raise ConfigurationError(_NO_PLACE.format("; ".join(failures)))
        self.path = self._paths[0]
        if len(self._paths) > 1:
            os.symlink(self._paths[1], f"{self.path}/{SPILL}")
        _open.add(self.path)

    @staticmethod
    def _fill(path: str, host: str) -> None:
        fd = os.open(f"{path}/{HOST_FILE}", os.O_WRONLY | os.O_CREAT, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(host)
        # Room for some records, or a clear error now instead of one later.
        fd = os.open(f"{path}/room", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            reserve(fd)
        finally:
            os.close(fd)
            os.unlink(f"{path}/room")

    def close(self) -> None:
        """Remove the folder; removing it twice is no error."""
        with _lock:
            if self.path not in _open:
                return
            _open.discard(self.path)
            for path in self._paths:
                shutil.rmtree(path, ignore_errors=True)
            if not _open:
                _remove_homes()


#: Re-entrant: a collection comes at any moment, and ends pools in the thread that it meets.
_lock = threading.RLock()
_numbers = itertools.count(1)
_made: list[_Home] = []
_open: set[str] = set()


def _prefix() -> str:
    return f"poolwarden-{os.getuid() if hasattr(os, 'getuid') else 0}-"


def places() -> list[str]:
    """Return the places for folders, best first; memory-backed ones lead."""
    found = ["/dev/shm", os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()]
    return list(dict.fromkeys(place for place in found if place and os.path.isdir(place)))


def _homes() -> list[_Home]:
    """Return this process's folders: the first place that works, then a spare one."""
    if _made:
        return _made
    failures = []
    for place in places():
        if _made and os.stat(place).st_dev == os.stat(_made[0].path).st_dev:
            continue
        try:
            _made.append(_Home(place))
        except OSError as error:
            failures.append(f"{place}: {error.strerror or error}")
        if len(_made) == 2:
            break
    if not _made:
        raise ConfigurationError(_NO_PLACE.format("; ".join(failures) or "no temporary directory"))
    # After the pools' own finalizers (15) and queues (10), before nothing.
    util.Finalize(None, _remove_homes, exitpriority=-100)
    return _made


def _remove_homes() -> None:
    while _made:
        _made.pop().remove()


def _sweep(place: str) -> None:
    """Remove what processes that are certainly gone have left in `place`."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for entry in os.scandir(place):
            if entry.name.startswith(_prefix()) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _sweep_one(entry)


def _sweep_one(entry: os.DirEntry[str]) -> None:
    status = entry.stat(follow_symlinks=False)
    if status.st_uid != os.getuid():
        return
    if entry.name.endswith(_UNFINISHED):
        if time.time() - status.st_mtime > _ABANDONED:
            shutil.rmtree(entry.path, ignore_errors=True)
        return
    fd = os.open(f"{entry.path}/{_OWNER}", os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(entry.path, ignore_errors=True)
    finally:
        os.close(fd)


def _forget() -> None:
    """In a forked process: the folders are the parent's; the lock must not be kept for it."""
    global _lock
    _lock = threading.RLock()
    for home in _made:
        os.close(home.lock)
    _made.clear()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
