"""The tasks of one executor, from ``submit`` until they are answered.

``submit`` puts a work item into a table and its id into a queue; the manager
thread takes ids out of the queue and looks the items up. Ours take the host's
place in the table, under ids of our own.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import weakref
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ...core.task_names import caller_site
from ...system.stepping import acquire
from ..registry import own_files
from .work_item import Shared, WorkItem

if TYPE_CHECKING:
    from ...core.guard import Guard
    from ...core.tickets import Ticket
    from .host_errors import ExecutorErrors

_OWN_FILES: Final = (
    "poolwarden/hosts/executor/submissions.py",
    *own_files("concurrent.futures.process", "loky.process_executor"),
)


class Submissions:
    """The table and the queue of one executor's tasks.

    Parameters
    ----------
    executor : object
        The host's.
    guard, errors, process_chunk
        As for `work_item.Shared`.
    """

    def __init__(self, executor: Any, guard: Guard, errors: ExecutorErrors, process_chunk: Any) -> None:
        self._guard = guard
        self._shared = Shared(guard, errors, process_chunk, self.keep)
        self._work_ids = executor._work_ids
        self._pending: dict[Any, Any] = executor._pending_work_items
        self._thread: Any = None
        # The host counts them in steps: two tasks had the same number when Ctrl-C came between, and one
        # got the other's result. Negative, so that they are none of the host's.
        self._numbers = itertools.count(-1, -1)

    @property
    def pending(self) -> dict[Any, Any]:
        """The work items that are not answered, by id; the manager thread changes them."""
        thread = self._thread
        # A new dict, once futures were cancelled at a shutdown.
        found: dict[Any, Any] = self._pending if thread is None else thread.pending_work_items
        return found

    @property
    def has_ours(self) -> bool:
        """Whether a work item of ours is not answered yet."""
        return any(isinstance(item, WorkItem) for item in self.pending.values())

    def open(self) -> None:
        """Let `cancel_future` find our tasks."""
        _open.add(self)

    def close(self) -> None:
        """Let `cancel_future` find them no more."""
        _open.discard(self)

    # On the executor; under its lock, but for `_on_put`.

    def hook(self) -> None:
        """See every task that is submitted from now on."""
        self._work_ids.put = self._on_put

    def unhook(self) -> None:
        """Leave new tasks to the host."""
        del self._work_ids.put

    def adopt(self) -> None:
        """Guard what is pending and was not sent yet."""
        for work_id, item in list(self._pending.items()):
            if not isinstance(item, WorkItem) and not item.future.running():
                self._pending[work_id] = WorkItem(self._shared, work_id, item, None)

    def _on_put(self, work_id: Any, *args: Any) -> None:
        """Stand in for ``_work_ids.put``: in the thread that submits."""
        item = self._pending.get(work_id)
        if item is None or isinstance(item, WorkItem):
            self._work_ids.queue.append(work_id)
            return
        own = next(self._numbers)
        self._pending[own] = WorkItem(self._shared, own, item, caller_site(_OWN_FILES, sys._getframe(1)))
        self._pending.pop(work_id, None)
        # In C, and not by ``put``, whose lock stays taken if a signal handler raises in the middle of it.
        self._work_ids.queue.append(own)

    # On the manager thread.

    def take_thread(self, thread: Any) -> None:
        """Look tasks up in the manager thread's table from now on, and see which it takes."""
        self._thread = thread
        self._work_ids.get = self._next_id

    def give_back(self) -> None:
        """Leave the queue to the host's thread."""
        vars(self._work_ids).pop("get", None)

    def drop_thread(self) -> None:
        """Drop the thread, which has ended or was given back."""
        self._thread = None

    def _next_id(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``_work_ids.get``, without ids that are answered already.

        The host looks each of them up among those that are pending. loky's
        leaves some behind when it is shut down with ``kill_workers``.
        """
        while True:
            work_id = type(self._work_ids).get(self._work_ids, *args, **kwargs)
            if work_id in self.pending:
                return work_id

    # In the manager thread, but for `resend`.

    def finish(self, work_id: Any, outcome: tuple[int, int, bytes]) -> None:
        """Answer a work item, as the host does for a result."""
        item = self.pending.pop(work_id, None)
        if item is not None:
            item.future.set_result(outcome)

    def keep(self, work: WorkItem) -> None:
        """Have a work item back among those that are pending."""
        self.pending[work.work_id] = work

    def resend(self, tickets: Iterable[Ticket]) -> None:
        """Have tickets sent again before those that wait, in their order. Any thread."""
        tickets = sorted(tickets, key=lambda ticket: ticket.number)
        with self._work_ids.mutex:
            for ticket in tickets:
                ticket.sent = False
            self._work_ids.queue.extendleft(ticket.key for ticket in reversed(tickets))

    def send_under_guard(self, entries: list[tuple[Any, Any]]) -> None:
        """Have items that run for their callers sent again, as ours, before those that wait."""
        for work_id, item in entries:
            work = item if isinstance(item, WorkItem) else WorkItem(self._shared, work_id, item, None)
            work.is_running = True
            self.pending[work_id] = work
        with self._work_ids.mutex:
            self._work_ids.queue.extendleft(work_id for work_id, _ in reversed(entries))

    def settle_after_cancel(self, earlier: Container[Any]) -> None:
        """See to what the host has left in its table when it was asked to cancel futures.

        It empties its queue of ids; tasks that wait to be sent again are running, and cannot be cancelled.
        """
        pending, work_ids = self.pending, self._work_ids
        with work_ids.mutex:
            waiting = set(work_ids.queue)
            for work_id, item in list(pending.items()):
                if work_id in waiting:
                    continue
                if isinstance(item, WorkItem) and item.waits_again:
                    work_ids.queue.append(work_id)
                elif not (item.is_running if isinstance(item, WorkItem) else work_id in earlier):
                    # Its submission was interrupted: nobody has its future, and it would never be sent.
                    pending.pop(work_id, None)
                    item.future.cancel()

    # Any thread.

    def answer_unbegun(self, ticket: Ticket) -> None:
        """Answer the caller of a cancelled task that no worker has begun. Manager thread."""
        work = self.pending.get(ticket.key)
        if isinstance(work, WorkItem) and not self._guard.has_begun(ticket):
            work.end_cancelled()

    def stop(self, future: Any) -> bool | None:
        """Stop the task of a future; None if it is none of ours. Any thread."""
        for item in list(self.pending.values()):
            if isinstance(item, WorkItem) and item.belongs_to(future):
                return not self._guard.disowned and item.stop()
        return None


#: Those whose guard has not ended.
_open: Final[weakref.WeakSet[Submissions]] = weakref.WeakSet()


def cancel_future(future: Any) -> bool | None:
    """Stop the task of a guarded executor's future; None if no such executor knows it. Any thread.

    The future may also be asyncio's one of the executor's.
    """
    for submissions in list(_open):
        stopped = submissions.stop(future)
        if stopped is not None:
            return stopped
    return None


@contextlib.contextmanager
def no_submission(executor: Any, name: str) -> Iterator[None]:
    """Hold the lock under which the host submits.

    Raises
    ------
    ConfigurationError
        It is not to be had in time.
    """
    lock = executor._shutdown_lock
    acquire(lock, f"this {name}")
    try:
        yield
    finally:
        lock.release()
