"""Calls that an executor had sent before it was guarded.

Nothing is known of them: not which worker runs which. As long as no worker
dies they end by themselves. After a death, those that are still in the call
queue are sent again under the guard, and what no worker can be running any more
is declared lost. That can take as long as the longest of them runs.

Runs in the manager thread, but for `may_be_run_by` and `note_unread`, which a
repair calls in the watchdog's.
"""

from __future__ import annotations

import contextlib
import pickletools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from ... import clock
from ...core import error_texts, stop_world
from ...core.diagnosis import Evidence, diagnose
from ...core.workers import Worker
from ...records import TaskInfo
from ...system.watchdog import watchdog
from ...worker.envelope import roll_call
from .stand_ins import MESSAGE
from .work_item import WorkItem

if TYPE_CHECKING:
    from ...core.guard import Guard
    from .call_queue import CallQueue
    from .manager_messages import ManagerMessages
    from .submissions import Submissions

#: Seconds between two looks, once a worker was lost, at whether others still run such calls.
_STEP: Final = 0.2


class EarlierCalls:
    """The work items that were pending when the guard came, as far as they had been sent.

    Parameters
    ----------
    guard : Guard
        Knows the workers.
    submissions : Submissions
        Has the work items.
    queue : CallQueue
        The way to the workers.
    messages : ManagerMessages
        The way to the manager thread.
    make_call : type
        The host's class of calls, for those that only have a worker register.
    as_host_error : callable
        Gives our errors the form of the host's.
    """

    def __init__(
        self,
        guard: Guard,
        submissions: Submissions,
        queue: CallQueue,
        messages: ManagerMessages,
        *,
        make_call: Callable[..., Any],
        as_host_error: Callable[[BaseException], BaseException],
    ) -> None:
        self._guard = guard
        self._submissions = submissions
        self._queue = queue
        self._messages = messages
        self._make_call = make_call
        self._as_host_error = as_host_error
        self._work_ids: set[Any] = set()
        self._unread: list[Any] = []

    def note(self, work_ids: Iterable[Any]) -> None:
        """Note items, of which some may have been sent without the guard."""
        self._work_ids.update(list(work_ids))

    def __contains__(self, work_id: object) -> bool:
        return work_id in self._work_ids

    def register_workers(self) -> None:
        """Have workers that are older than the guard register before their first guarded task."""
        guard, calls = self._guard, self._queue.calls
        for _ in range(sum(worker.is_unknown() for worker in guard.live_workers())):
            if not calls.full():
                calls.put(self._make_call(MESSAGE, roll_call, (guard.pool_name,), {}))

    def unanswered(self) -> list[Any]:
        """Return the keys of those that nobody has answered yet."""
        pending = self._submissions.pending
        return [id for id in list(self._work_ids) if _was_sent_bare(pending.get(id))]

    def may_be_run_by(self, worker: Worker) -> bool:
        """Return whether a stopped worker may be running one of them, and can be left alive.

        An idle one waits in a read or for a semaphore, so one that is stopped
        anywhere else runs a call. One that runs a call which reads or waits
        itself looks idle, and is lost; so is one that may be sending its result,
        since nobody knows whether it holds the lock for that.
        """
        if not (worker.is_unknown() and self.unanswered()):
            return False
        return worker.system_call()[0] == "" and not self._queue.is_somebody_sending()

    def note_unread(self, data: bytes) -> set[int]:
        """Note the calls in what was read from the call queue's pipe: no worker has them.

        Returns the numbers of the guarded tickets among them, as long as there
        are earlier calls.
        """
        if not self._work_ids:
            return set()
        work_ids = list(map(_work_id_of, stop_world.messages(data)))
        self._unread += work_ids
        items = [self._submissions.pending.get(work_id) for work_id in work_ids]
        return {
            item.ticket.number for item in items if isinstance(item, WorkItem) and item.ticket is not None
        }

    def after_repair(self) -> None:
        """Send again what was not read, and declare lost what nobody can be running any more."""
        self._send_unread()
        unanswered = self.unanswered()
        if not unanswered:
            return
        if any(worker.is_unknown() for worker in self._guard.live_workers()):
            self.register_workers()
            watchdog().schedule(self, clock.now() + _STEP)
            return
        for work_id in unanswered:
            self._submissions.pending.pop(work_id).future.set_exception(self._lost())

    def on_deadline(self) -> None:
        """Look again. Watchdog's thread."""
        if not self._guard.closed:
            self._messages.call_soon(self.after_repair)

    def on_exits(self, tokens: list[Any]) -> None:
        """Watch nothing."""

    def on_failure(self, error: BaseException) -> None:
        """Give up these calls only."""
        self._work_ids.clear()

    def _send_unread(self) -> None:
        unread, self._unread = self._unread, []
        items = [(work_id, self._submissions.pending.get(work_id)) for work_id in unread]
        self._submissions.send_under_guard([entry for entry in items if _was_sent_bare(entry[1])])

    def _lost(self) -> BaseException:
        exit = diagnose(
            Evidence(None, None, notes=("it was sent before guard(), so its worker is not known",))
        )
        task = TaskInfo("a task submitted before guard()", None, None, 1)
        return self._as_host_error(error_texts.worker_lost(task, exit))


def _was_sent_bare(item: Any) -> bool:
    """Return whether a pending item is running for its caller, and not under the guard."""
    if isinstance(item, WorkItem):
        return item.ticket is None and not item.is_running and bool(item.caller.running())
    return item is not None and bool(item.future.running())


def _work_id_of(message: bytes) -> Any:
    """Return the id in a pickled ``_CallItem``, unpickling nothing of the user's; None if there is none."""
    seen = False
    # ValueError: it is no pickle, but the rest of a message half read.
    with contextlib.suppress(ValueError):
        for _, argument, _ in pickletools.genops(message):
            if seen and isinstance(argument, int):
                return argument
            seen = seen or argument == "work_id"
    return None
