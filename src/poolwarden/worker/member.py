"""This process as a worker of a guarded pool: its record and what it arms.

Runs in the worker. A worker that was born under the guard arrives through
`birth`, before its first task; one that is older than the guard arrives
through `join` with its first guarded task.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import pickle
import stat
import sys

from . import ledger, signals
from .ledger import GONE, LEFT, PHASE, SAFE_OPEN, Record
from .orphan import die_with_parent, process_package
from .payload import Store
from .picklers import pickling_of
from .plain import send_plainly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Final, NoReturn

#: File in the pool's folder that names the host's pickler: ``module:name``.
HOST_FILE: Final = "host"
#: File there with the host's reducers for results, for workers older than the guard.
REDUCERS_FILE: Final = "reducers"

#: The main functions of the hosts' workers, with the names of their queues in them.
_LOOPS: Final = {"worker": ("inqueue", "outqueue"), "_process_worker": ("call_queue", "result_queue")}

_members: dict[str, Member] = {}
_is_worker = False


class Member:
    """A worker's side of one guarded pool.

    Attributes
    ----------
    record : Record
        The flight recorder, shared with the parent.
    dumper : Dumper
        Pickles as the host does.
    held : list
        The running task's call and result, until its outcome is stored.
    in_task : bool
        True while user code runs, a task or the initializer; only then may a
        signal raise in it.
    soft_error : BaseException or None
        The timeout that was raised inside the running task.
    forked : bool
        True in a process that this worker has forked: it is not the worker, and
        has to end without an answer when it comes back from user code.
    """

    __slots__ = (
        "dumper",
        "folder",
        "forked",
        "held",
        "in_task",
        "record",
        "soft_error",
        "stack_file",
        "store",
    )

    def __init__(self, folder: str, reducers: Any, line: Any) -> None:
        self.folder = folder
        self.held: list[Any] = []
        self.in_task = self.forked = False
        self.soft_error: BaseException | None = None
        with open(f"{folder}/{HOST_FILE}", encoding="utf-8") as text:
            pickler_name = text.read()
        if reducers is None:
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{REDUCERS_FILE}", "rb") as file:
                reducers = pickle.load(file)
        self.dumper, loads = pickling_of(pickler_name, reducers)
        self.store = Store(folder, loads)
        self.record = _make_record(self.store)
        fd = os.open(
            f"{folder}/{os.getpid()}.stack", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | SAFE_OPEN, 0o600
        )
        self.stack_file = os.fdopen(fd, "wb", buffering=0)
        self.record.cells[ledger.ARMED] = signals.arm(self)
        die_with_parent(line)
        _mark_orderly_exit(self)

    def disown(self) -> None:
        """Let go of all that is shared, in a process that this worker has forked."""
        self.forked = True
        self.store.disown()
        # A store into it raises ValueError from now on: that is what ends the loop over a chunk's items.
        self.record.close()


def join(folder: str, reducers: Any = None, line: Any = None) -> Member:
    """Return this worker's membership, made at the first call for `folder`.

    The record of a new one stays UNBORN until its caller says what it does: of
    a worker that is older than the guard, a record that says more also says
    whether what it had read before was a guarded task.

    Parameters
    ----------
    folder : str
        The pool's private folder.
    reducers : dict, optional
        What the host's pickler is to be given for results.
    line : multiprocessing.connection.Connection, optional
        See `orphan.die_with_parent`.

    Raises
    ------
    OSError
        There is no room for a record, or the folder is gone.
    """
    global _is_worker
    member = _members.get(folder)
    if member is None:
        _is_worker = True
        member = _members[folder] = Member(folder, reducers, line)
    return member


def birth(
    folder: str,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    results: Any = None,
    line: Any = None,
) -> None:
    """Join the pool, then run its initializer: the initializer of guarded workers.

    Parameters
    ----------
    folder, line
        As for `join`.
    initializer, initargs
        The user's own.
    results : multiprocessing.queues.SimpleQueue, optional
        An executor's queue for results.

    Raises
    ------
    BaseException
        What the initializer raised, after its traceback was put in the record.
    """
    global _is_worker
    _is_worker = True
    # Whatever comes of the rest: a parent that has just died may have left no
    # folder to join.
    die_with_parent(line)
    if results is not None:
        send_plainly(results)
    reducers = getattr(results, "_reducers", None)
    if initializer is None:
        with contextlib.suppress(OSError):
            join(folder, reducers, line).record.cells[PHASE] = ledger.READY
        return
    try:
        member = join(folder, reducers, line)
    except OSError:
        # No room. The pool must start all the same; each task will say so.
        initializer(*initargs)
        _end_if_forked()
        return
    cells = member.record.cells
    cells[PHASE] = ledger.STARTING
    member.in_task = True
    try:
        initializer(*initargs)
        member.in_task = False
    except BaseException:
        member.in_task = False
        if member.forked:
            raise
        # Before the import, which may wait for ever for a lock that was taken when this process was
        # forked: that is no user code any more.
        cells[PHASE] = ledger.FAILED
        import traceback

        text = traceback.format_exc().encode("utf-8", "replace")
        member.record.store_outcome(0, 0, text[-ledger.INLINE_MAX :])
        raise
    _end_if_forked()
    cells[PHASE] = ledger.READY


def leave(member: Member) -> None:
    """End this process now; its last outcome is in the record."""
    member.record.cells[PHASE] = LEFT
    os._exit(0)


def end_behind_task(error: BaseException) -> bool:
    """Have this worker end in order once its task's outcome is sent; False where `error` itself ends it.

    A pool's worker is ended by a SystemExit that reaches its loop. An
    executor's loop catches it, and takes the next call: that is made to raise
    it, or for loky, which would take it for a call that cannot be read, to be
    the word to leave.
    """
    frame = sys._getframe(1)
    while (name := frame.f_code.co_name) != "_process_worker":
        # A task of an executor may have forked this worker of a pool.
        is_pool = name == "worker" and frame.f_globals.get("__name__", "").endswith(".pool")
        if is_pool or frame.f_back is None:
            return False
        frame = frame.f_back
    names = frame.f_locals

    def get(*args: Any, **kwargs: Any) -> None:
        if "worker_exit_lock" not in names:
            raise error

    names["call_queue"].get = get
    return True


def _make_record(store: Store) -> Record:
    name = str(os.getpid())
    for place in store.places:
        path = f"{place}/{name}"
        # What is there was left by a dead worker of this pool with the same pid.
        with contextlib.suppress(OSError):
            os.unlink(path)
        try:
            return Record(path, create=True)
        except OSError as error:
            failure = error
            with contextlib.suppress(OSError):
                os.unlink(path)
    raise failure


def _mark_orderly_exit(member: Member) -> None:
    util = importlib.import_module(f"{process_package()}.util")

    def mark() -> None:
        # An initializer that failed, or a task in which a handler of the
        # user's raised SystemExit, ends in an orderly exit as well.
        if member.record.cells[PHASE] in (ledger.READY, ledger.DONE):
            member.record.cells[PHASE] = LEFT

    # Which of the two comes last depends on the version and the start method.
    to_come, pid = {"atexit", "multiprocessing"}, os.getpid()

    def came(which: str) -> None:
        if os.getpid() == pid:
            to_come.discard(which)
            if not to_come:
                member.record.cells[GONE] = 1

    util.Finalize(None, mark, exitpriority=1000)
    util.Finalize(None, came, ("multiprocessing",), exitpriority=-1000)
    atexit.register(came, "atexit")


class _Exit:
    """Stands in for the queues of a worker, and their locks, in a process that it has forked.

    Whoever takes a task or gives an answer there leaves instead.

    Attributes
    ----------
    is_there : bool
        Whether the host's main function was found.
    code
        Set once the process has come back from a task: the exit status, as
        ``sys.exit`` takes it.
    """

    is_there = False
    code: Any = ...
    _free: tuple[Any, ...] = ()

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Leave by the host's own way out; at once if it was interrupted itself, and may hold a lock."""
        if self.code is ...:
            # It went on waiting for a lock, as the worker did, and has got it since.
            for lock in self._free:
                if lock._is_mine():
                    lock.release()
            _end_here(0)
        raise SystemExit(self.code)

    acquire = release = __enter__ = __exit__ = __call__

    def close_off(self, frame: FrameType | None) -> None:
        """Put it in the place of the queues of the main function that is on this stack."""
        self.is_there, self.code, self._free = False, ..., ()
        while frame is not None:
            names = _LOOPS.get(frame.f_code.co_name, ())
            for queue in [frame.f_locals[name] for name in names if name in frame.f_locals]:
                self.is_there = True
                if queue.get is self:
                    continue
                for end in (queue._reader, queue._writer):
                    _break(end)
                # Who is in the middle of a read comes out of it by the lock's own object.
                for lock in (queue._rlock, queue._wlock):
                    if lock is not None:
                        # One that is held is held by the worker.
                        self._free += () if lock._semlock._is_mine() else (lock._semlock,)
                        lock._semlock = self
                # A queue may look them up at each call, or be looked at for them.
                queue._rlock = queue._wlock = queue.get = queue.put = self
            frame = frame.f_back


def _break(end: Any) -> None:
    """Have a pipe's end be none in this process, for who is in the middle of a call as well.

    Its number stays taken, or it would be that of the next file to be opened.
    """
    fd, end._handle = end._handle, None
    if fd is not None and stat.S_ISFIFO(os.fstat(fd).st_mode):
        reader, writer = os.pipe()
        os.close(writer)
        os.dup2(reader, fd, inheritable=False)
        os.close(reader)


_exit = _Exit()


def end_forked(code: Any) -> NoReturn:
    """End this process, which a task has forked, with an exit status as ``sys.exit`` takes it.

    As the bare worker ends, by its host's own way out, where its exit handlers
    run and its streams are flushed.

    Raises
    ------
    SystemExit
        To be passed on to the host.
    """
    _exit.code = code
    if not _exit.is_there:
        _end_here(code)
    raise SystemExit(code)


def _end_if_forked() -> None:
    """End a process that was forked in the initializer: it has come back from it."""
    if not _is_worker:
        _end_here(0)


def _end_here(code: Any) -> NoReturn:
    """End this process: what calls its tasks is no main function that is known, and must not go on."""
    try:
        util = importlib.import_module(f"{process_package()}.util")
        util._exit_function()
        util._flush_std_streams()
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))


def _forget() -> None:
    """In a forked process: it is no worker, whatever it does next.

    It must not take tasks or answer them, nor write to our record; and Ctrl-C
    is its own affair.
    """
    global _is_worker
    if not _is_worker:
        return
    _is_worker = False
    try:
        for member in _members.values():
            member.disown()
        _members.clear()
        signals.disarm()
    finally:
        _exit.close_off(sys._getframe(1))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
