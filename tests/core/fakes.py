"""A host that does nothing but remember what the core asks of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from poolwarden.core.guard import Guard
from poolwarden.core.tickets import Ticket
from poolwarden.core.workers import Snapshot, Worker
from poolwarden.errors import RemoteTraceback
from poolwarden.hosts.base import PoolAdapter
from tests.contract.waiting import DEADLINE


class CannotSendError(Exception):
    """What this host raises for what cannot be pickled."""


class FakeHost(PoolAdapter):
    """Remembers every call; `wait_for` waits for one. Any thread may call it.

    Attributes
    ----------
    calls : list of tuple
        Each call's name and argument, in order.
    may_leave : bool
        The answer of `may_worker_leave`.
    on_repair : callable or None
        Called in `repair`, with the guard.
    """

    name = "Fake"

    def __init__(self) -> None:
        super().__init__()
        self.known: list[Any] = []
        self.calls: list[tuple[str, Any]] = []
        self.may_leave = True
        self.on_repair: Callable[[Guard], None] | None = None
        self._changed = threading.Condition()

    def _note(self, name: str, argument: Any = None) -> None:
        with self._changed:
            self.calls.append((name, argument))
            self._changed.notify_all()

    def named(self, name: str) -> list[Any]:
        """Return the arguments of the calls of this name, so far."""
        return [argument for found, argument in list(self.calls) if found == name]

    def wait_for(self, name: str, count: int = 1) -> list[Any]:
        """Return the arguments of the calls of this name, once there are so many."""
        with self._changed:
            found = self._changed.wait_for(lambda: len(self.named(name)) >= count, DEADLINE)
        assert found, f"no {count} calls of {name}, only {self.calls}"
        return self.named(name)

    def processes(self) -> list[Any]:
        return self.known

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        error.__cause__ = RemoteTraceback(text)
        return error

    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        return CannotSendError(why, what, text, cause)

    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        self._note("deliver", (ticket, kind, data))

    def answer_unbegun(self, ticket: Ticket) -> None:
        pass

    def resend(self, tickets: Iterable[Ticket]) -> None:
        self._note("resend", list(tickets))

    def repair(self, guard: Guard) -> None:
        self._note("repair")
        if self.on_repair is not None:
            self.on_repair(guard)

    def nudge(self) -> None:
        self._note("nudge")

    def may_worker_leave(self, code: int | None) -> bool:
        return self.may_leave

    def has_older_tasks(self) -> bool:
        return False

    def buried(self, worker: Worker, seen: Snapshot) -> None:
        self._note("buried", worker.pid)

    def workers_are_gone(self) -> None:
        self._note("workers_are_gone")

    def answered_all(self) -> None:
        self._note("answered_all")

    def disown(self) -> None:
        return None

    def on_broken(self) -> None:
        self._note("on_broken")
