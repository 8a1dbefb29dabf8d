"""A work item of a guarded executor: what its manager thread handles.

The executor makes one for each ``submit``; this one takes its place, and the
place of the future in it, as far as the manager thread is concerned. The
caller's own `Future` is left alone. Everything here runs in the manager
thread, but for the making, which happens in ``submit``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import InvalidStateError
from concurrent.futures._base import PENDING
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...core import error_texts
from ...core.task_names import name_of
from ...core.tickets import VERDICT, Ticket
from ...system.complaints import complain
from ...system.interruption import protect
from ...worker import envelope
from ..batch import Batch

if TYPE_CHECKING:
    from ...core.guard import Guard
    from .host_errors import ExecutorErrors

_host_log: Final = logging.getLogger("concurrent.futures")

# What has become of a work item; decided under `Shared.answering`.
OPEN: Final = 0
STOPPED: Final = 1  # the user wants it cancelled
ANSWERED: Final = 2


class Shared:
    """What the work items of one executor share.

    Parameters
    ----------
    guard : Guard
        Issues their tickets.
    errors : ExecutorErrors
        How the host says that a call cannot be pickled.
    process_chunk : callable
        What the host's ``map`` submits, in a partial for each call.
    keep : callable
        Called in the manager thread with a work item that goes on, though the host has taken it out.

    Attributes
    ----------
    answering : threading.RLock
        Held while it is decided what has become of a work item.
    """

    __slots__ = ("answering", "errors", "guard", "keep", "process_chunk")

    def __init__(
        self, guard: Guard, errors: ExecutorErrors, process_chunk: Any, keep: Callable[[WorkItem], None]
    ) -> None:
        self.guard = guard
        self.errors = errors
        self.process_chunk = process_chunk
        self.keep = keep
        # Re-entrant: a signal handler may cancel while it is held.
        self.answering = threading.RLock()


class WorkItem:
    """Stands in for the host's ``_WorkItem`` and for the future in it.

    The call is pickled when the manager thread asks for it, so that a queued
    task takes no more memory than in the bare executor, and its future can be
    cancelled as long.
    """

    __slots__ = (
        "_args",
        "_func",
        "_kwds",
        "_shared",
        "_site",
        "_state",
        "caller",
        "is_running",
        "ticket",
        "work_id",
    )

    kwargs: dict[str, Any] = {}  # noqa: RUF012 - the envelope takes none

    def __init__(self, shared: Shared, work_id: int, item: Any, site: tuple[Any, ...] | None) -> None:
        self._shared = shared
        self.work_id = work_id
        self.caller = item.future
        protect(getattr(item.future, "_condition", None))
        item.future._done_callbacks = _Callbacks(item.future._done_callbacks)
        self._func, self._args, self._kwds = item.fn, item.args, item.kwargs
        self._site = site
        self.is_running = False
        self._state = OPEN
        self.ticket: Ticket | None = None
        if shared.guard.policy.cancel_running:
            # Who waits with asyncio, or in a task group, calls this.
            self.caller.cancel = self._cancel_caller

    @property
    def future(self) -> WorkItem:
        """What the manager thread takes for the future."""
        return self

    @property
    def fn(self) -> Any:
        """Return what is called in the worker; issues the ticket at the first call."""
        if self.ticket is None:
            self.ticket = self._issue()
        return envelope.run if self.ticket.verdict is None else envelope.bounce

    @property
    def args(self) -> tuple[Any, ...]:
        """Return the arguments of the call; its message is written next."""
        ticket, guard = self.ticket, self._shared.guard
        assert ticket is not None, "fn is read first"
        guard.sending(ticket)
        if self._state == STOPPED:
            guard.cancel(ticket)
        return ticket.call(guard.pool_name) if ticket.verdict is None else (ticket.number, VERDICT)

    @property
    def waits_again(self) -> bool:
        """Whether it is running for its caller, and waits to be sent."""
        return self.is_running and not (self.ticket is not None and self.ticket.sent)

    def _stub(self) -> Ticket:
        """Return a ticket that was never issued, for what an error says of the task."""
        func = self._func.first_function if type(self._func) is Batch else self._func
        ticket = Ticket(0, self.work_id, name_of(func), self._shared.guard.policy, None, 0)
        ticket.site = self._site
        return ticket

    def _issue(self) -> Ticket:
        guard = self._shared.guard
        func, args, kwds = self._func, self._args, self._kwds
        policy = guard.policy
        call: Any = (func, args, kwds)
        flags, base = 0, None
        if type(func) is Batch:
            call, flags, base, policy, self._site = func.call, func.flags, func.base, func.policy, func.site
            func = func.function
        elif type(func) is partial and func.func is self._shared.process_chunk and len(args) == 1:
            # One chunk of ``map``; all chunks of a call share the partial.
            func, items = func.args[0], args[0]
            base = self._func.__dict__.setdefault("_poolwarden_items", 0)
            self._func.__dict__["_poolwarden_items"] += len(items)
            call, flags = (func, items), envelope.CHUNK | envelope.STAR
        try:
            if flags & envelope.STAR and len(call[1][0]) == 1:
                # All are, since zip() has made them. A thousand bare values take
                # 27 us less to pickle and 25 us less to unpickle (3.13).
                call, flags = (func, [value for (value,) in call[1]]), envelope.CHUNK
            ticket = guard.tickets.issue(self.work_id, func, call, policy, flags=flags, base=base)
        except BaseException as error:
            # An exit in the user's __reduce__ must not end the manager thread.
            name = name_of(func[0] if type(func) is tuple else func)
            ticket = guard.tickets.issue(self.work_id, name, (None, (), {}), policy, base=base)
            ticket.verdict = error
        ticket.site = self._site
        if ticket.verdict is not None:
            # What goes to a worker in its place may be lost there.
            guard.fail(ticket, self._never_sent(ticket, ticket.verdict))
        # As the bare executor does, so that large arguments can be freed.
        self._func = self._args = self._kwds = None
        return ticket

    def _never_sent(self, ticket: Ticket, error: BaseException) -> BaseException:
        if isinstance(error, Exception):
            return self._shared.errors.unpicklable(error)
        # Raised in the caller's thread as it is, it would end the program there.
        return self._shared.errors.never_sent(error_texts.never_sent(ticket.info(), error))

    def set_running_or_notify_cancel(self) -> bool:
        """As the future's; a task that is sent again is running already."""
        if not self.is_running:
            self.is_running = bool(self.caller.set_running_or_notify_cancel())
        return self.is_running

    def set_result(self, outcome: Any) -> None:
        """Give the caller what the envelope holds."""
        guard = self._shared.guard
        if self.ticket is None:
            # Taken over in the moment in which the bare task was sent.
            self._answer(True, outcome)
            return
        answer = guard.settle(*outcome)
        if answer is not None:
            self._answer(*answer[1:])
        elif outcome[0] in guard.tickets.open:
            # It goes on; the manager thread has taken it out already.
            self._shared.keep(self)

    def set_exception(self, error: BaseException) -> None:
        """Give the caller an exception of the host's own, or why the guard has given the executor up."""
        guard, ticket = self._shared.guard, self.ticket
        if guard.broken is not None:
            verdict = None if ticket is None else ticket.verdict
            error = verdict or guard.broken_error(ticket or self._stub())
        if ticket is not None:
            answer = guard.settle(*guard.host_failure(ticket.number, error))
            if answer is not None and guard.broken is None:
                self._answer(*answer[1:])
                return
        self._answer(False, error)

    def _answer(self, ok: bool, value: Any) -> None:
        with self._shared.answering:
            if self._state == ANSWERED:
                # Cancelled before it had begun, and skipped.
                return
            stopped, self._state = self._state == STOPPED, ANSWERED
        vars(self.caller).pop("cancel", None)
        try:
            with contextlib.suppress(InvalidStateError):
                if stopped:
                    # Whatever came of it: that is what stop() has promised.
                    _cancel_running(self.caller)
                else:
                    (self.caller.set_result if ok else self.caller.set_exception)(value)
        except BaseException as error:
            self._end_copied_thread()
            # The host logs exceptions of callbacks, but an exit in one would
            # end the manager thread.
            complain("poolwarden: a callback of a future exited; results go on being delivered", error)
        self._end_copied_thread()

    def _end_copied_thread(self) -> None:
        """End a process that a callback has forked: it would go on as the manager thread, on shared pipes.

        Without an exception: loky's thread kills the workers then, which are the parent's.
        """
        if self._shared.guard.disowned:
            os._exit(0)

    def end_cancelled(self) -> None:
        """Answer the caller of a task that no worker will begin; what is on its way comes to nothing."""
        self._answer(False, None)

    def belongs_to(self, future: Any) -> bool:
        """Return whether a future is the caller's, or one of asyncio's that was made of it."""
        if self.caller is future:
            return True
        # Source: asyncio.futures._chain_future, from 3.10 to 3.15; its callback knows the other future.
        return any(
            cell.cell_contents is future
            for callback in self.caller._done_callbacks[:]
            for cell in getattr(callback, "__closure__", None) or ()
        )

    def cancel(self) -> bool:
        """As the future's."""
        return bool(self.caller.cancel())

    def _cancel_caller(self) -> bool:
        """Stand in for the future's ``cancel``, of a policy that says ``cancel_running``."""
        return self.stop() or bool(self.caller.cancelled())

    def stop(self) -> bool:
        """Cancel the task even if it runs; False when it has ended. Any thread."""
        if self.caller.done():
            return False
        if type(self.caller).cancel(self.caller):
            vars(self.caller).pop("cancel", None)
            return True
        with self._shared.answering:
            if self._state == ANSWERED:
                return False
            self._state = STOPPED
        # Behind that: if there is no ticket yet, the manager thread finds it.
        if self.ticket is not None:
            self._shared.guard.cancel(self.ticket)
        return True


class _Callbacks(list[Any]):
    """Callbacks of a future; one that raises is logged as the host does, but by another thread.

    The manager thread calls them, and a logging handler of the user's that
    blocks or raises would block or end it.
    """

    def __iter__(self) -> Iterator[Any]:
        return map(_Callback, super().__iter__())


class _Callback:
    def __init__(self, callback: Callable[[Any], object]) -> None:
        self._callback = callback

    def __call__(self, future: Any) -> None:
        try:
            self._callback(future)
        except Exception as error:
            complain(f"exception calling callback for {future!r}", error, logger=_host_log)
        except BaseException as error:
            if threading.current_thread() is threading.main_thread():
                # The user cancels the future himself: it may be Ctrl-C.
                raise
            complain("poolwarden: a callback of a future exited; results go on being delivered", error)


def _cancel_running(future: Any) -> None:
    """Make a running future one that was cancelled, for everybody who waits for it."""
    with future._condition:
        future._state = PENDING
    type(future).cancel(future)
    future.set_running_or_notify_cancel()
