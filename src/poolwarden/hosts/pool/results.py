"""The result objects of a guarded pool of `multiprocessing` or a copy of it.

Covers `AsyncResult`, `MapResult` and the iterators of ``imap``: reading the
envelope in ``_set``, and failing one from outside. Runs in the pool's result
thread, but for `fail_result`, which runs when that thread has ended.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, cast

from ...system.complaints import complain
from ...system.interruption import protect

if TYPE_CHECKING:
    from ...core.guard import Guard
    from ...core.tickets import Ticket


@functools.cache
def guarded_class(result_class: Any) -> Any:
    """Return a subclass of a result class whose ``_set`` reads the envelope.

    A subclass, not a wrapper in the instance: that would be a cycle, and
    results would live until the garbage collector comes by.
    """

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        # The index of a guarded task is minus its ticket; the job's other
        # tasks, sent before the guard came, have the pool's own index.
        if index >= 0:
            result_class._set(self, index, outcome)
            return
        answer = _settle(self._poolwarden, self._cache, index, outcome)
        if answer is not None:
            ticket, ok, value = answer
            if ticket.missing:
                # The iterable of a ``map`` raised; the bare pool waits for ever for the chunks behind.
                self._number_left -= ticket.missing
            if ticket.cancelled:
                # Whatever came of it: that is what cancel() has promised.
                ok, value = False, CancelledError()
            result_class._set(self, ticket.key[1], (ok, value))

    return type(result_class.__name__, (result_class,), {"_set": _set, "__module__": result_class.__module__})


def _settle(
    guard: Guard, cache: QuietCache, index: int, outcome: tuple[bool, Any]
) -> tuple[Ticket, bool, Any] | None:
    """Settle what has arrived for a guarded task; None if its caller was answered before."""
    ok, value = outcome
    number, kind, data = value if ok else guard.host_failure(-index, value)
    answer = guard.settle(number, kind, data)
    if answer is not None and answer[0].answered:
        cache.arrived(answer[0])
        return None
    return answer


class QuietCache:
    """What a guarded result object removes itself from, when it is done.

    The pool's own cache wakes the worker handler whenever it becomes empty,
    so after every single task that nothing else runs beside; that costs more
    than the task (31 us of 62 us of CPU for a no-op, 3.13). The handler needs
    to know only once the pool is closed.
    """

    def __init__(self, cache: dict[Any, Any], handler: Any, notifier: Any, running: Any) -> None:
        self._cache = cache
        self._handler = handler
        self._notifier = notifier
        self._running = running
        # By job, the tickets whose messages are still on their way though their callers were answered.
        self._early: dict[Any, set[int]] = {}

    def answer_early(self, ticket: Ticket) -> None:
        """End a cancelled task in its result object. Result thread."""
        job, index = ticket.key
        result = self._cache.get(job)
        if result is None or isinstance(result, Remains):
            return
        ticket.answered = True
        self._early.setdefault(job, set()).add(ticket.number)
        host_class(result)._set(result, index, (False, CancelledError()))

    def arrived(self, ticket: Ticket) -> None:
        """Note that nothing of a task that was answered early is on its way any more. Result thread."""
        job = ticket.key[0]
        numbers = self._early.get(job, set())
        numbers.discard(ticket.number)
        if not numbers:
            self._early.pop(job, None)
            if isinstance(self._cache.get(job), Remains):
                del self[job]

    def __setitem__(self, job: Any, result: Any) -> None:
        self._cache[job] = result

    def __delitem__(self, job: Any) -> None:
        if self._early and job in self._early:
            # The pool must not end, nor the answers be dropped unread: they free what the tasks were given.
            self._cache[job] = Remains(self._cache[job]._poolwarden, self)
            return
        dict.__delitem__(self._cache, job)
        # If the pool is closed right after this look, close() wakes the handler.
        if self._handler._state != self._running and not self._cache:
            self._notifier.put(None)


class Remains:
    """Takes the place of a result object that is done, for those of its tasks that workers still skip."""

    def __init__(self, guard: Guard, cache: QuietCache) -> None:
        self._poolwarden = guard
        self._cache = cache

    def _set(self, index: int, outcome: tuple[bool, Any]) -> None:
        _settle(self._poolwarden, self._cache, index, outcome)


def host_class(result: Any) -> Any:
    """Return the host's own class of a result object."""
    return type(result).__mro__[1] if hasattr(result, "_poolwarden") else type(result)


def take_over(result: Any, guard: Guard, cache: QuietCache) -> None:
    """Make a result object understand guarded answers; twice is no error."""
    if hasattr(result, "_poolwarden"):
        return
    result._cache = cache
    _protect_callbacks(result)
    protect(getattr(result, "_cond", None))
    protect(getattr(getattr(result, "_event", None), "_cond", None))
    result._poolwarden_chunks = getattr(result, "_number_left", None)
    result.__class__ = guarded_class(cast("Any", type(result)))
    # Last: who was interrupted before has not done it.
    result._poolwarden = guard


def _protect_callbacks(result: Any) -> None:
    for name in ("_callback", "_error_callback"):
        callback = getattr(result, name, None)
        if callback is not None:
            setattr(result, name, functools.partial(_call_safely, callback))


def _call_safely(callback: Callable[[Any], object], value: Any) -> None:
    pid = os.getpid()
    try:
        callback(value)
    except BaseException as error:
        if os.getpid() != pid:
            raise
        # In the bare pool this ends the result thread, and every task hangs.
        complain("poolwarden: a callback of the pool raised; its results go on being delivered", error)
    if os.getpid() != pid:
        # It has forked, and the copy would go on as the result thread, on the parent's pipe.
        raise SystemExit


def end_result(result: Any, error: BaseException, cache: QuietCache) -> None:
    """End a result object with an error, and have it out of the pool's table in any case."""
    try:
        fail_result(result, error)
    except Exception:
        # Its making was interrupted, so that nobody has it.
        with contextlib.suppress(KeyError):
            del cache[result._job]


def fail_result(result: Any, error: BaseException) -> None:
    """End a result object with an error, whatever it still waits for."""
    original = host_class(result)
    if not hasattr(result, "_poolwarden"):
        _protect_callbacks(result)
    if hasattr(result, "_unsorted"):
        index, length = result._index, result._length
        original._set(result, index, (False, error))
        if length != index + 1:
            # Or it was all that was missing, and the result is out of the pool's table.
            result._set_length(index + 1)
    else:
        if hasattr(result, "_number_left"):
            result._number_left = 1
        original._set(result, 0, (False, error))


class Barrier:
    """Calls a function once the result thread has handled all that was sent before.

    Attributes
    ----------
    job : tuple
        Key in the pool's cache; a message for it is the barrier.
    """

    _numbers = itertools.count()

    def __init__(self, cache: QuietCache, reached: Callable[[], None]) -> None:
        self.job = ("poolwarden", next(self._numbers))
        self._cache = cache
        self._reached = reached
        cache[self.job] = self

    def _set(self, index: int, outcome: object) -> None:
        try:
            self._reached()
        except BaseException as error:
            complain("poolwarden: internal error after a repair", error)
        # Last: an empty cache lets a closed pool end.
        del self._cache[self.job]
