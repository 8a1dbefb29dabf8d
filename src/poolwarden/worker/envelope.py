"""What the host calls instead of the user's function.

Runs in the worker. The host's own message carries `run`, a ticket and bytes;
everything that can fail because of user code (unpickling the call, the call,
pickling the outcome) happens inside `run`, and ends in one of the kinds below.
The host's worker loop and the parent's manager threads only ever handle small
messages that cannot fail.

The outcome is stored in the worker's record before the phase says DONE and
before the host sends anything: a finished task survives the death of its
worker, and nothing has to run twice.

One module, though long: each that a worker imports costs every spawned one 0.1
to 0.2 ms.
"""

from __future__ import annotations

import pickle

from ..clock import now_ns
from .ledger import DONE, END, INLINE_MAX, ITEM, PHASE, RETIRE, RUNNING, STARTED, TICKET, UNBORN
from .member import Member, end_behind_task, end_forked, join, leave
from .payload import KEPT, MEMORY, PIECES, Dumper
from .results import NoPipeError
from .signals import raised_by_handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

# Kinds of outcome; the parent's half is core.outcome.
VALUE: Final = 0  # the pickled result
ERROR: Final = 1  # what the task raised: (type name, traceback text, pickled exception)
UNSENDABLE: Final = 2  # result or exception cannot be pickled: (repr of why, repr of what, text, pickled why)
UNREADABLE: Final = 3  # the call cannot be unpickled: (type name, traceback text)
EXIT: Final = 4  # a BaseException that is no Exception: (description, traceback text)
TIMEOUT: Final = 5  # the soft timeout was raised and not caught: (traceback text, item, kept); always inline
PARTS: Final = 6  # every item's result was kept: where those lie that are in the worker's ring, or nothing
UNREACHABLE: Final = 7  # the call lies in memory that this worker has not mapped: it did not begin

# Flags of a call, next to those of `payload` that say where it is.
CHUNK: Final = 2  # the payload is (function, items), not (function, args, kwds)
STAR: Final = 4  # items are tuples of arguments
TIMED: Final = 8  # the start of every item is recorded
KEEP: Final = 16  # every item's result is kept for the parent as soon as it is there
BATCH: Final = 32  # with CHUNK, the payload is a batch: its ``items`` are (function, args, kwds)
ASK: Final = 64  # it may have been called off before it begins

#: Bytes of a traceback that fit into a message, with the item's number.
_TEXT_MAX: Final = INLINE_MAX - 150
_KEPT_MAX: Final = 10_000
_kept_indices: tuple[int, ...] = ()
_PLAIN: Final = Dumper(pickle.Pickler)
#: Types of results that every pickler writes alike. The host's is spared: making one of loky's takes 11 us.
_ALIKE: Final = frozenset((type(None), bool, int, float))
_NOTHING: Final = pickle.dumps(None)
_OWN_MODULES: Final = (
    __name__,
    *(f"{__package__}.{name}" for name in ("payload", "picklers", "results")),
    f"{__package__.rpartition('.')[0]}.limited",
)


def run(pool: str, ticket: int, flags: int, data: bytes, first: int = 0) -> tuple[int, int, bytes]:
    """Run one guarded call and return ``(ticket, kind, bytes)``.

    Parameters
    ----------
    pool : str
        Names the pool that this worker belongs to.
    ticket : int
        The parent's number of this task.
    flags : int
        How to read `data` and what to record.
    data : bytes
        The pickled call, or where it lies.
    first : int
        With KEEP, the item to begin with: those before it are finished.

    Returns
    -------
    tuple
        Never raises for anything the task does.

    Raises
    ------
    SystemExit
        A signal handler raised it in the task, or the pool ends: it ends the worker.
    """
    member = join(pool)
    cells = member.record.cells
    cells[TICKET] = ticket
    cells[ITEM] = first
    cells[STARTED] = now_ns()
    cells[PHASE] = RUNNING
    ring = member.ring
    mark = None if ring is None else ring.mark()
    try:
        if member.memory is None:
            member.tell_begin(ticket)
        kind, outcome = _execute(member, ticket, flags, data, first)
        if len(outcome) > INLINE_MAX and not member.forked:
            kind, outcome = kind | PIECES, member.pipe.send_pieces(ticket, outcome)
    except BaseException as error:
        if member.forked:
            end_forked(_status(error))
        # A signal came between the task and the handling of what it raised,
        # or what it raised misbehaves; or the parent cannot be told of the task.
        member.in_task = False
        if ring is not None and mark is not None:
            ring.roll_back(mark)
        if _ends_worker(member, error) and not end_behind_task(error):
            raise
        kind, outcome = _unexpected(error)
    if member.forked:
        # By what pickles the result.
        end_forked(0)
    member.record.store_outcome(ticket, kind, outcome)
    # Freeing what the task was given or has made may end the worker (a
    # __del__ in C): not before its outcome is safe.
    member.held.clear()
    if member.forked:
        end_forked(0)
    cells[PHASE] = DONE
    # A soft timeout that the task caught; its frames hold the task's data.
    member.soft_error = None
    if cells[RETIRE]:
        _retire(member)
    return ticket, kind, outcome


def _unexpected(error: BaseException) -> tuple[int, bytes]:
    if isinstance(error, NoPipeError):
        return ERROR, pickle.dumps(("OSError", _text(error)[-_TEXT_MAX:], pickle.dumps(OSError(*error.args))))
    return EXIT, pickle.dumps((type(error).__name__, ""))


def bounce(ticket: int, kind: int) -> tuple[int, int, bytes]:
    """Send an answer that the parent has made back to it; runs nothing."""
    return ticket, kind, b""


def roll_call(pool: str) -> None:
    """Join the pool and do nothing else; sent to workers older than the guard."""
    member = join(pool)
    if member.record.cells[PHASE] == UNBORN:
        member.is_ready()


def _execute(member: Member, ticket: int, flags: int, data: bytes, first: int) -> tuple[int, bytes]:
    if flags & ASK and not flags & BATCH and _is_called_off(member, ticket):
        return VALUE, _NOTHING
    try:
        if flags & MEMORY and member.calls.memory is None:
            return UNREACHABLE, b""
        call = member.calls.load(flags, data, ticket)
    except BaseException as error:
        if member.forked:
            raise
        if _ends_worker(member, error):
            if not end_behind_task(error):
                raise
            return _failed(member, ticket, error)
        return _pack(member, ticket, UNREADABLE, (type(error).__name__, _text(error)))
    if member.forked:
        # Unpickling has forked this process. The task is the worker's.
        raise CameBack
    member.held.append(call)
    if flags & BATCH and flags & ASK and _is_called_off(member, ticket):
        # A cancelled call is dropped only after it was unpickled: joblib counts references to a mapped array
        # when the argument is made and destroyed, and would leak one that was never made.
        return VALUE, _NOTHING
    try:
        if flags & BATCH:
            return _run_batch(member, ticket, flags, call, first)
        return _answer(member, ticket, flags, call, first)
    except BaseException as error:
        member.in_task = False
        if member.forked or (_ends_worker(member, error) and not end_behind_task(error)):
            raise
        return _failed(member, ticket, error)


def _ends_worker(member: Member, error: BaseException) -> bool:
    """Return whether what came out of a task is meant for the worker: the task's own `sys.exit()` is not."""
    if not isinstance(error, SystemExit):
        return False
    return member.record.cells[RETIRE] == END or raised_by_handler(error)


def _retire(member: Member) -> None:
    """End this worker behind its task, as the parent wants it."""
    error = SystemExit(0)
    if member.record.cells[RETIRE] != END:
        leave(member)
    elif not end_behind_task(error):
        raise error


def _is_called_off(member: Member, ticket: int) -> bool:
    # The mark is in the memory of the call, which is not the worker's own in a pool that has grown.
    memory = member.calls.memory
    return memory is not None and memory.is_called_off(ticket)


def _run_batch(member: Member, ticket: int, flags: int, batch: Any, first: int) -> tuple[int, bytes]:
    """Run a batch's items from inside of the batch's own call, which may arrange things for them."""
    arguments = member, ticket, flags, (_call_item, batch.items), first
    batch.items = [(_answer, arguments, {})]
    outcome: tuple[int, bytes] = batch()[0]
    return outcome


def _call_item(item: Any) -> Any:
    func, args, kwds = item
    return func(*args, **kwds)


def _answer(member: Member, ticket: int, flags: int, call: Any, first: int) -> tuple[int, bytes]:
    if flags & KEEP:
        return _run_and_keep(member, ticket, flags, call, first)
    member.in_task = True
    if flags & CHUNK:
        value = _run_chunk(member, flags, call)
    else:
        func, args, kwds = call
        value = func(*args, **kwds)
    member.in_task = False
    if member.forked:
        raise CameBack
    # Still under the caller's `except`: Ctrl-C may come while it pickles.
    return _sendable(member, ticket, flags, value)


def _sendable(member: Member, ticket: int, flags: int, value: Any) -> tuple[int, bytes]:
    if type(value) in _ALIKE and len(outcome := pickle.dumps(value)) <= INLINE_MAX:
        return VALUE, outcome
    member.held.append(value)
    try:
        where, outcome = member.dumper.dump(value, member.ring, ticket)
    except Exception as error:
        return _unsendable(member, ticket, error, value, "")
    return VALUE | where, outcome


def _run_chunk(member: Member, flags: int, call: Any) -> list[Any]:
    """Run all items and return their results; the record follows the item.

    The target of the comprehension is the record's cell: that is the cheapest
    way found to leave a trace of each item (16 ns on 3.13; a call or a lock
    would cost more than many an item does).
    """
    func, items = call
    cells = member.record.cells
    if not flags & TIMED:
        numbered = zip(_indices(len(items)), items)  # noqa: B905 - the indices may be more
        if flags & BATCH:
            return [each(*args, **kwds) for cells[ITEM], (each, args, kwds) in numbered]
        if flags & STAR:
            return [func(*values) for cells[ITEM], values in numbered]
        return [func(value) for cells[ITEM], value in numbered]
    if flags & STAR:
        func = _Starred(func)
    results = []
    for item, value in enumerate(items):
        # Start before item: a reader between the two sees the old item as if
        # it had just begun, which is late, never wrong.
        cells[STARTED] = now_ns()
        cells[ITEM] = item
        results.append(func(value))
    return results


def _indices(count: int) -> Iterable[int]:
    """Return 0 to `count` - 1; the integers are kept, since making them takes 10 ns each."""
    global _kept_indices
    if count > _KEPT_MAX:
        return range(count)
    if count > len(_kept_indices):
        _kept_indices = tuple(range(count))
    return _kept_indices


def _run_and_keep(member: Member, ticket: int, flags: int, call: Any, first: int) -> tuple[int, bytes]:
    """Run items from `first` on, keeping each result before the next begins."""
    func, items = call
    if flags & STAR:
        func = _Starred(func)
    cells = member.record.cells
    ring = member.ring
    if ring is not None:
        ring.begin_keeping(ticket)
    for item in range(first, len(items)):
        cells[STARTED] = now_ns()
        cells[ITEM] = item
        member.in_task = True
        value = func(items[item])
        member.in_task = False
        if member.forked:
            raise CameBack
        try:
            data = member.dumper.dumps(value)
        except Exception as error:
            if ring is not None:
                ring.forget_kept(ticket)
            return _unsendable(member, ticket, error, value, "")
        if member.forked:
            raise CameBack
        if ring is None or not ring.keep(item, data):
            _keep_by_pipe(member, ticket, item, data)
    return PARTS, b"" if ring is None else ring.kept(ticket)


def _keep_by_pipe(member: Member, ticket: int, item: int, data: bytes) -> None:
    """Give an item's result to the parent now, piece by piece; the last piece is short."""
    for start in range(0, len(data) + 1, INLINE_MAX):
        member.pipe.tell(KEPT, ticket, item, data[start : start + INLINE_MAX])


class CameBack(BaseException):
    """A process that a task has forked has returned from it."""


def _status(error: BaseException) -> Any:
    """Return the exit status of a process that a task has forked, and what it left the task with.

    As `multiprocessing` has it; what nobody else would learn of is printed.
    """
    if isinstance(error, SystemExit):
        return error.code
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if isinstance(error, CameBack) or trace is None or trace.tb_frame.f_globals["__name__"] in _OWN_MODULES:
        # It has come back, and found closed what is the worker's.
        return 0
    import sys

    print(_text(error), end="", file=sys.stderr)
    return 1


class _Starred:
    """``itertools.starmap`` for one item."""

    __slots__ = ("func",)

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, args: Any) -> Any:
        return self.func(*args)


def _failed(member: Member, ticket: int, error: BaseException) -> tuple[int, bytes]:
    """Return the outcome for what a task raised."""
    text = _text(error)
    if error is member.soft_error:
        member.soft_error = None
        # Its end: where the task stood. With 800 characters a long path hid the task itself.
        end = text.encode("utf-8", "replace")[-_TEXT_MAX:].decode("utf-8", "ignore")
        kept = b"" if member.ring is None else member.ring.kept(ticket)
        return TIMEOUT, pickle.dumps((end, member.record.cells[ITEM], kept))
    if member.ring is not None:
        member.ring.forget_kept(ticket)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if not isinstance(error, Exception):
        return _pack(member, ticket, EXIT, (f"{name}: {_line(error)}".rstrip(": "), text))
    # The traceback keeps frames, and so the task's data, alive, and is not
    # pickled anyway.
    error.__traceback__ = None
    try:
        pickled = member.dumper.dumps(error)
    except Exception as why:
        return _unsendable(member, ticket, why, error, text)
    return _pack(member, ticket, ERROR, (name, text, pickled))


def _unsendable(member: Member, ticket: int, why: Exception, what: Any, text: str) -> tuple[int, bytes]:
    why.__traceback__ = None
    try:
        pickled = member.dumper.dumps(why)
    except Exception:
        pickled = b""
    return _pack(member, ticket, UNSENDABLE, (_repr(why), _repr(what), text, pickled))


def _pack(member: Member, ticket: int, kind: int, parts: tuple[Any, ...]) -> tuple[int, bytes]:
    where, data = _PLAIN.dump(parts, member.ring, ticket)
    return kind | where, data


def _text(error: BaseException) -> str:
    """Return the traceback as text, from where it leaves our own frames."""
    try:
        import traceback
    except ImportError:
        # The process has another root directory.
        return f"{type(error).__name__}: {_line(error)}\n"
    trace = following = error.__traceback__
    while following is not None:
        # The last of our frames counts: a batch's own frame lies between them.
        if following.tb_frame.f_globals.get("__name__") == __name__:
            trace = following
        following = following.tb_next
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:
        return f"{type(error).__name__} (its traceback could not be formatted)\n"


def _repr(obj: object) -> str:
    # A repr that raised killed the bare pool's worker, and the call hung.
    try:
        return repr(obj)
    except BaseException as error:
        return f"<{type(obj).__name__}: repr() raised {type(error).__name__}>"


def _line(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return ""
