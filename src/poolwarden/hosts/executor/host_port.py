"""What the core asks of a guarded executor (`core.ports.Host`); the executor's parts do it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ...core.recovery import repair
from ...worker.ledger import LEFT
from ..base import PoolAdapter

if TYPE_CHECKING:
    from ...core.guard import Guard
    from ...core.tickets import Ticket
    from ...core.workers import Snapshot, Worker
    from .call_queue import CallQueue
    from .earlier_calls import EarlierCalls
    from .host_errors import ExecutorErrors
    from .manager_messages import ManagerMessages
    from .manager_thread import ManagerThread
    from .recovery import RecoveredCalls
    from .shutdown import ExecutorShutdown
    from .submissions import Submissions
    from .unguarding import Unguarding
    from .worker_starts import WorkerStarts

#: Seconds for a start of a worker to be over, at the beginning of a repair.
_START_BOUND: Final = 2.0


class ExecutorHost(PoolAdapter):
    """Passes on what the core asks; who makes the parts is a subclass."""

    reaps = False

    errors: ExecutorErrors
    messages: ManagerMessages
    submissions: Submissions
    queue: CallQueue
    earlier: EarlierCalls
    recovered: RecoveredCalls
    manager: ManagerThread
    workers: WorkerStarts
    unguarding: Unguarding
    shutdown: ExecutorShutdown

    def as_host_error(self, error: BaseException) -> BaseException:
        return self.errors.as_host_error(error)

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        return self.errors.with_remote_traceback(error, text)

    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        return self.errors.unsendable(why, what, text, cause)

    def processes(self) -> list[Any]:
        return list(self.workers.table.values())

    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        self.messages.post_outcome(ticket.number, kind, data, ticket.key)

    def answer_unbegun(self, ticket: Ticket) -> None:
        self.messages.call_soon(lambda: self.submissions.answer_unbegun(ticket))

    def resend(self, tickets: Iterable[Ticket]) -> None:
        self.submissions.resend(tickets)
        self._wake()

    def buried(self, worker: Worker, seen: Snapshot) -> None:
        worker.left = seen.phase == LEFT
        self.workers.note(worker)

    def catch_up(self, bound: float) -> None:
        done = threading.Event()
        self.messages.call_soon(done.set)
        done.wait(bound)

    def is_somebody_sending(self) -> bool:
        return self.queue.is_somebody_sending()

    def may_worker_leave(self, code: int | None) -> bool:
        return self.workers.may_leave(code)

    def has_older_tasks(self) -> bool:
        return bool(self.earlier.unanswered())

    def nudge(self) -> None:
        self.workers.look()

    def answered_all(self) -> None:
        self.unguarding.answered_all()

    def on_broken(self) -> None:
        self.shutdown.refuse_more()
        self._wake()

    def repair(self, guard: Guard) -> None:
        acquired = guard.births.acquire(timeout=_START_BOUND)
        try:
            # While the executor is taken down nothing is pending any more, and
            # its queues may be closed already.
            if not self.manager.is_joining:
                repair(guard, self.recovered)
        finally:
            if acquired:
                guard.births.release()

    def _wake(self) -> None:
        """Have the manager thread look at its queue, and at whether the executor is broken."""
        self.messages.call_soon(_nothing)


def _nothing() -> None:
    pass
