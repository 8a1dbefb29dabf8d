"""Where a run's report is written, and when: now and then, and at the end of the process.

`start` runs in the thread that starts the program. Costs nothing before
`start`, and `start` imports nothing that a program without pools would not
import.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from .. import clock
from ..plaintext import shown, visible
from .recording import Recording

if TYPE_CHECKING:
    from ..core.observing import Look
    from .track import Track

SUFFIXES: Final = (".json", ".html")
"""The forms of a report."""

#: Names the owner to programs below it: ``pid:path``.
OWNER: Final = "POOLWARDEN_REPORT_OWNER"
_VARIABLE: Final = "POOLWARDEN_REPORT"

#: Seconds between two writings of the file while pools are there: at least, and how many times as long as
#: the last one took.
REFRESH_MIN: Final = 0.25
REFRESH_SHARE: Final = 20
_WRITE_BOUND: Final = 5.0
#: Bytes of a path. Source: PATH_MAX in linux/limits.h; less elsewhere.
_PATH_MAX: Final = 4096
#: The priority in `multiprocessing.util`: after the ends of pools (15 and less), and of their folders (-100).
_LAST: Final = -1000


class Writer:
    """Writes what has happened in this process since `start`.

    Attributes
    ----------
    path : str
        Where the report goes; absolute.
    always : bool
        Whether it is written though nothing happened.
    recording : Recording
        What is kept.
    is_written : bool
        Whether there is a file.
    """

    def __init__(self, path: str, *, always: bool) -> None:
        self.path = path
        self.always = always
        self.recording = Recording()
        self.is_written = False
        self._finished = False
        self._writing = threading.Lock()
        # How much of what has happened is in the file.
        self._told = -1
        self._due = 0.0

    def track(self, name: str, host: str, look: Look) -> Track:
        """Return the lanes of a new pool."""
        # Imported here and not by the thread that writes first: what a thread is importing while a worker is
        # forked, that worker can never import.
        import json  # noqa: F401
        from multiprocessing import util

        from . import document, page  # noqa: F401
        from .sampling import watch
        from .track import Track

        track = Track(name, host, self.recording.event)
        if not self.recording.tracks:
            util.Finalize(None, self.finish, exitpriority=_LAST)
        if self.recording.add(track):
            watch(track, look, self.refresh)
        return track

    def refresh(self, now: bool) -> None:
        """Write what has happened since the last time, now or when it is time again; the report's thread.

        A signal may end the process at any moment, and nobody is asked then.
        """
        if self._told != self.recording.happened and (now or clock.now() >= self._due):
            begun = clock.now()
            self.write()
            self._due = clock.now() + max(REFRESH_MIN, REFRESH_SHARE * (clock.now() - begun))

    def finish(self) -> None:
        """Write the report behind the ends of all pools."""
        self.write()
        self._finished = True

    def write(self) -> None:
        """Write the report, if there is to be one and it is not finished. Raises nothing."""
        # Bounded: the thread that writes may be stopped for good by the end of the interpreter.
        acquired = self._writing.acquire(timeout=_WRITE_BOUND)
        try:
            self._write()
        finally:
            if acquired:
                self._writing.release()

    def _write(self) -> None:
        if self._finished or not (self.recording.counts or self.always):
            return
        happened = self.recording.happened
        try:
            _replace(self.path, self._text())
            self._told = happened
            self.is_written = True
        except Exception as error:
            self._finished = True
            why = f"poolwarden: no report could be written to {self.path}: {error}"
            print(visible(why), file=sys.stderr)

    def _text(self) -> str:
        from . import document

        found = document.describe(self.recording)
        if self.path.lower().endswith(".json"):
            import json

            return json.dumps(found, indent=1) + "\n"
        from . import page

        return page.render(found)


def start(path: str, *, always: bool = False) -> None:
    """Record from now on, and write a report when this process ends.

    Parameters
    ----------
    path : str
        Ends in ``.json`` or ``.html``; missing folders are made. If a process
        above this one has been started with the same path, this one writes
        its file beside it, and only if something happened.
    always : bool
        Write it though nothing happened.

    Raises
    ------
    ConfigurationError
        `path` has another suffix; the text names the valid ones.

    Notes
    -----
    A second call replaces the path. `POOLWARDEN_REPORT` is set, for the
    programs that this one starts.
    """
    global _writer
    if not path.lower().endswith(SUFFIXES):
        from ..errors import ConfigurationError

        raise ConfigurationError(
            f"a report's name must end in {' or '.join(SUFFIXES)}, not {shown(os.path.basename(path))}"
        )
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > _PATH_MAX:
        # No file has such a name; and kept in two variables it would leave no room to start programs.
        from ..errors import ConfigurationError

        raise ConfigurationError(f"a report's path may have {_PATH_MAX} bytes, not {len(os.fsencode(path))}")
    owner, _, owned = os.environ.get(OWNER, "").partition(":")
    if owned == path and owner != str(os.getpid()):
        path, always = _beside(path), False
    else:
        os.environ[_VARIABLE] = path
        os.environ[OWNER] = f"{os.getpid()}:{path}"
    if _writer is None:
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_child)
        _writer = Writer(path, always=always)
    _writer.path = path
    _writer.always = _writer.always or always


def open_track(name: str, host: str, look: Look) -> Track | None:
    """Return where a pool's events and workers are recorded; None if no report is asked for.

    Parameters
    ----------
    name, host : str
        Of the pool.
    look : callable
        Returns what its workers run now, None once the pool has ended; called
        in a thread of this package until then.
    """
    if _is_worker():
        return None
    if _writer is None and (path := os.environ.get(_VARIABLE)):
        _start_as_asked(path)
    return None if _writer is None else _writer.track(name, host, look)


@functools.cache
def _start_as_asked(path: str) -> None:
    """Start for the variable, when the first pool is guarded; a bad value is told once."""
    try:
        start(path)
    except ValueError as error:
        print(visible(f"poolwarden: {_VARIABLE}: {error}"), file=sys.stderr)


_writer: Writer | None = None


def written() -> str | None:
    """Return the path of this process's report, None if there is none yet."""
    return _writer.path if _writer is not None and _writer.is_written else None


def _beside(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return f"{stem}-{os.getpid()}{suffix}"


def _is_worker() -> bool:
    """Return whether this process was started by `multiprocessing` or a copy of it."""
    process: Any = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def _at_exit() -> None:
    # This comes before the ends of pools if `multiprocessing` was imported
    # before `start`, and behind them if not. Should they be interrupted, it is
    # all there is.
    if _writer is not None and not _is_worker():
        _writer.write()


def _in_child() -> None:
    """In a forked process: what was recorded is the parent's, and so is the path."""
    global _writer
    if _writer is not None:
        # A thread that is not here may have held them.
        for track in _writer.recording.tracks:
            track.unlock()
        owned = os.environ.get(_VARIABLE, _writer.path)
        _writer = Writer(_beside(owned), always=False)


def _replace(path: str, text: str) -> None:
    """Write a file so that a reader sees all of it or what was there before."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # A name that nobody can guess, made here and nowhere else: in a folder that is everybody's a link could
    # lie in wait, and lead to any file of ours.
    unfinished = f"{path}.{os.urandom(8).hex()}.new"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
