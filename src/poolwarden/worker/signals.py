"""The signals of a worker: stack dumps, the soft timeout, Ctrl-C.

Runs in the worker, once, when it joins a guarded pool. A handler is installed
only where the disposition is the default one, and only from the main thread;
what could be installed is told to the parent as bits, since an unexpected
real-time signal would kill the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import threading

from . import ledger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .ledger import Record

# The top real-time signals are used by nobody known; without such signals
# there are no soft timeouts and no stacks.
_LAST = int(getattr(signal, "SIGRTMAX", 0))
STACK_SIGNAL: Final = _LAST - 4 if _LAST else None
SOFT_SIGNAL: Final = _LAST - 5 if _LAST else None
_CRASHES: Final = tuple(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL")
    if hasattr(signal, name)
)

# Source: inspect.CO_VARARGS; that module takes milliseconds to import.
_VARARGS: Final = 4


class SignalTarget:
    """What the handlers of a worker look at: the part of `Member` that a signal concerns.

    A base class and not an object of its own, since `in_task` is set four times
    for each task: one more attribute to look up would be paid by every task.

    Attributes
    ----------
    record : Record
        Says which task runs, and which one a soft timeout is meant for.
    stack : int
        Descriptor that faulthandler writes to; -1 for none.
    in_task : bool
        True while user code runs, a task or the initializer; only then may a
        signal raise in it.
    soft_error : BaseException or None
        The timeout that was raised inside the running task.
    """

    __slots__ = ("in_task", "record", "soft_error", "stack")

    record: Record
    stack: int
    in_task: bool
    soft_error: BaseException | None


_target: SignalTarget | None = None
#: Whether somebody else had the stacks of crashes written before.
_was_enabled = False


def arm(target: SignalTarget) -> int:
    """Install the handlers and return the ARMED bits; never raises."""
    global _target, _was_enabled
    # A pool that is guarded a second time finds our own handlers, not the default.
    again = _target is not None
    _target = target
    if not again:
        _was_enabled = faulthandler.is_enabled()
    bits = 0
    if target.stack >= 0 and (_is_default(*_CRASHES) or faulthandler.is_enabled()):
        faulthandler.enable(target.stack)
    if threading.current_thread() is not threading.main_thread():
        return bits
    if STACK_SIGNAL is not None and target.stack >= 0 and (again or _is_default(STACK_SIGNAL)):
        # Written in C: works while the task holds the GIL.
        faulthandler.register(STACK_SIGNAL, target.stack)
        bits |= ledger.ARMED_STACK
    if SOFT_SIGNAL is not None and (again or _is_default(SOFT_SIGNAL)):
        signal.signal(SOFT_SIGNAL, _on_soft_timeout)
        bits |= ledger.ARMED_SOFT
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
    return bits


def disarm() -> None:
    """Give the signals back, in a process that was forked by a worker; never raises.

    What it writes at a crash would be in the worker's stack otherwise.
    """
    global _target
    if _target is None:
        return
    _target = None
    with contextlib.suppress(Exception):
        if STACK_SIGNAL is not None:
            faulthandler.unregister(STACK_SIGNAL)
        faulthandler.disable()
        if _was_enabled:
            faulthandler.enable()
    if SOFT_SIGNAL is not None and signal.getsignal(SOFT_SIGNAL) is _on_soft_timeout:
        signal.signal(SOFT_SIGNAL, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is _on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_default(*numbers: int) -> bool:
    return all(signal.getsignal(number) == signal.SIG_DFL for number in numbers)


def _on_soft_timeout(signum: int, frame: Any) -> None:
    """Raise inside the task that the parent means, and nowhere else."""
    target = _target
    if target is None or not target.in_task:
        return
    cells = target.record.cells
    meant = (cells[ledger.SOFT_TICKET] - 1, cells[ledger.SOFT_ITEM])
    if meant != (cells[ledger.TICKET], cells[ledger.ITEM]):
        return
    cells[ledger.SOFT_TICKET] = 0
    from ..errors import TaskTimeoutError

    target.soft_error = TaskTimeoutError("the task outran its timeout and was asked to stop (soft timeout)")
    raise target.soft_error


def _on_interrupt(signum: int, frame: Any) -> None:
    """Ctrl-C reaches the whole process group: interrupt a task, never an idle worker.

    An idle worker that gets KeyboardInterrupt prints a traceback and leaves,
    each one of them; the parent ends the pool anyway.
    """
    target = _target
    if target is not None and target.in_task:
        raise KeyboardInterrupt


def raised_by_handler(error: BaseException) -> bool:
    """Return whether a signal handler has raised `error`, or called what did.

    To a handler Python gives the number of the signal and the frame that it
    interrupts: the one above in the traceback. No other function is called so.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        if _was_interrupted(trace.tb_frame, trace.tb_next.tb_frame):
            return True
        trace = trace.tb_next
    return False


def _was_interrupted(caller: Any, frame: Any) -> bool:
    code, names = frame.f_code, frame.f_locals
    given = [names.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & _VARARGS:
        given += names.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    pairs = zip(given, given[1:])  # noqa: B905, RUF007 - itertools would be one more import
    return any(value is caller and isinstance(number, int) for number, value in pairs)
