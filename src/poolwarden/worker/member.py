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
import struct
import sys

from . import ledger, signals
from .ledger import GONE, LEFT, PHASE, Record
from .memory import SEAT, Seat, found_by, identity_of, is_same, keep_high, own_process, proof_of
from .orphan import die_with_parent, process_package
from .payload import BEGAN, HERE, Reader, load
from .picklers import guessed_name, pickling_of
from .results import ResultPipe, Ring, send_plainly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Final, NoReturn

#: The main functions of the hosts' workers, with the names of their queues in them.
_LOOPS: Final = {"worker": ("inqueue", "outqueue"), "_process_worker": ("call_queue", "result_queue")}

_members: dict[str, Member] = {}
_is_worker = False


class Member(signals.SignalTarget):
    """A worker's side of one guarded pool.

    `SignalTarget` has what a signal concerns besides.

    Attributes
    ----------
    record : Record
        The flight recorder, shared with the parent; the worker's own if `memory` is None.
    memory : Memory or None
        The pool's, None if it could not be mapped.
    ring : Ring or None
        Takes large outcomes.
    calls : Reader
        Reads calls.
    dumper : Dumper
        Pickles as the host does.
    held : list
        The running task's call and result, until its outcome is stored.
    forked : bool
        True in a process that this worker has forked: it is not the worker, and
        has to end without an answer when it comes back from user code.
    """

    __slots__ = ("_pipe", "calls", "dumper", "forked", "held", "identity", "memory", "pool", "ring")

    def __init__(self, pool: str, seat: Seat, reducers: Any, line: Any) -> None:
        self.pool = pool
        self.held: list[Any] = []
        self.in_task = self.forked = False
        self.soft_error = None
        self._pipe: ResultPipe | None = None
        self.identity = identity_of(own_process())
        if reducers is None and seat.reducers:
            reducers = pickle.loads(seat.reducers)
        self.dumper, loads = pickling_of(seat.pickler_name, reducers)
        self.memory = seat.memory
        self.calls = Reader(seat.calls, loads)
        self.ring: Ring | None = None
        if seat.memory is None:
            self.record = Record(memoryview(bytearray(ledger.SIZE)))
        else:
            self.record = seat.memory.record(seat.place)
            if seat.memory.ring:
                self.ring = Ring(seat.memory, seat.place, self.record.cells)
        self.stack = _open_stack(seat)
        seat.close()
        self.record.cells[ledger.STACK_FD] = max(self.stack, 0)
        self.record.cells[ledger.ARMED] = signals.arm(self)
        die_with_parent(line)
        _mark_orderly_exit(self)

    def disown(self) -> None:
        """Let go of all that is shared, in a process that this worker has forked."""
        self.forked = True
        # A store into it raises ValueError from now on: that is what ends the loop over a chunk's items,
        # and what keeps the ring from being written to.
        self.record.close()

    @property
    def pipe(self) -> ResultPipe:
        """The host's result pipe.

        Raises
        ------
        NoPipeError
            None is known.
        """
        if self._pipe is None:
            self._pipe = ResultPipe(self.pool, self.record.cells)
        return self._pipe

    def is_ready(self) -> None:
        """Note that no task was taken yet, and that the next one may be."""
        self.record.cells[PHASE] = ledger.READY
        if self.memory is None:
            # A host without such a pipe fails the task, and says why.
            with contextlib.suppress(OSError):
                self.pipe.tell(HERE, self.identity)

    def tell_begin(self, ticket: int) -> None:
        """Tell the parent what it cannot read in a record, before a task begins."""
        self.pipe.tell(BEGAN, self.identity, ticket)


def _open_stack(seat: Seat) -> int:
    """Return a descriptor for what faulthandler writes into the pool's memory; -1 without one."""
    if seat.memory is None or not is_same(seat.fd, seat.proof):
        return -1
    try:
        # Opened anew: a file position of its own.
        fd = keep_high(os.open(f"/proc/self/fd/{seat.fd}", os.O_WRONLY | os.O_CLOEXEC))
        os.lseek(fd, seat.memory.stack_start(seat.place), os.SEEK_SET)
    except (OSError, AttributeError):
        return -1
    return fd


def _find_seat(pool: str) -> Seat:
    """Return the seat of a worker that is older than the guard, without memory if there is no way to it."""
    pickler_name, reducers = guessed_name(), b""
    with contextlib.suppress(OSError, ValueError, OverflowError, AttributeError, struct.error):
        fd, memory, host = found_by(pool)
        place = memory.place_of(identity_of(own_process()))
        if any(host):
            pickler_name, reducers = load(memory, host, 0, pickle.loads)
        if place is not None:
            return Seat(pool, memory, place, memory, pickler_name, reducers, fd, proof_of(fd))
        os.close(fd)
    return Seat(pool, None, 0, None, pickler_name, reducers)


def join(pool: str, reducers: Any = None, line: Any = None) -> Member:
    """Return this worker's membership, made at the first call for `pool`.

    A new record stays UNBORN until the caller sets a phase. For a worker older
    than the guard that phase is the only news of the message it has just read:
    RUNNING means a guarded task, READY a roll call, and UNBORN that nothing is
    known yet.

    Parameters
    ----------
    pool : str
        Names the pool.
    reducers : dict, optional
        What the host's pickler is to be given for results.
    line : multiprocessing.connection.Connection, optional
        See `orphan.die_with_parent`.
    """
    global _is_worker
    member = _members.get(pool)
    if member is None:
        _is_worker = True
        # A process that was forked by a worker, and is one of another pool, has the seat of its own.
        seat = getattr(own_process(), SEAT, None)
        if not isinstance(seat, Seat) or seat.pool != pool:
            seat = _find_seat(pool)
        member = _members[pool] = Member(pool, seat, reducers, line)
    return member


def birth(
    pool: str,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    results: Any = None,
    line: Any = None,
) -> None:
    """Join the pool, then run its initializer: the initializer of guarded workers.

    Parameters
    ----------
    pool, line
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
    # This comes first: the parent may die at any moment.
    die_with_parent(line)
    if results is not None:
        send_plainly(results)
    member = join(pool, getattr(results, "_reducers", None), line)
    # The first task needs this module. An initializer that changes the root directory or the user may
    # leave no way to it.
    importlib.import_module(f"{__package__}.envelope")
    cells = member.record.cells
    if initializer is None:
        member.is_ready()
        return
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
    member.is_ready()


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
