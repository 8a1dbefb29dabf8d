"""Uses a guarded pool while time stands still, as a program of its own; exits with 0 if all went well.

``python -m tests.attack.frozen_program TOOL WHEN BINDING START_METHOD``: `WHEN` says
whether the pool is made before time is frozen, or in there.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from poolwarden import TaskTimeoutError, WorkerLostError
from poolwarden.testing import kill_self
from tests.contract.tasks import square

FROZEN = "2030-01-01"


def real() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def nap(seconds: float) -> float:
    """Take that long, whatever has become of `time.sleep`."""
    end = real() + seconds
    while real() < end:
        signal.sigtimedwait([signal.SIGUSR1], 0.01)
    return seconds


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """What many test suites do by hand."""
    with contextlib.ExitStack() as stack:
        # With one that never moves the hosts themselves wait for ever (``Connection.poll(0)``).
        ticks = itertools.count()
        stack.enter_context(mock.patch("time.monotonic", side_effect=lambda: 5.0 + next(ticks) * 1e-6))
        for name, value in (("time", 1e9), ("perf_counter", 5.0), ("monotonic_ns", 5)):
            stack.enter_context(mock.patch(f"time.{name}", return_value=value))
        stack.enter_context(mock.patch("time.sleep", return_value=None))
        yield


def freezegun(**options: Any) -> Any:
    return importlib.import_module("freezegun").freeze_time(FROZEN, **options)


TOOLS: dict[str, Callable[[], Any]] = {
    "replaced": replaced,
    "freezegun": freezegun,
    "freezegun-tick": lambda: freezegun(tick=True),
    "freezegun-leaps": lambda: freezegun(auto_tick_seconds=100),
    "time_machine": lambda: importlib.import_module("time_machine").travel(FROZEN, tick=False),
    "time_machine-tick": lambda: importlib.import_module("time_machine").travel(FROZEN, tick=True),
}


def fails_after(host: Any, pool: Any, func: Any, error: type[BaseException]) -> float:
    """Return how long it took until a task failed as it had to."""
    start = real()
    handle = host.submit(pool, func)
    try:
        found = host.result(handle)
    except error:
        return real() - start
    raise AssertionError(f"{func} returned {found!r}")


def check(host: Any, pool: Any) -> None:
    assert [host.result(host.submit(pool, square, n)) for n in range(4)] == [0, 1, 4, 9]
    for pid in host.worker_pids(pool)[:1]:
        # One that was stopped for its task's time may be going right now.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert [host.result(host.submit(pool, square, n)) for n in range(4)] == [0, 1, 4, 9]
    assert fails_after(host, pool, kill_self(), WorkerLostError) < 5
    # A clock that runs ahead would stop it, one that stands still would let the next one hang.
    assert host.result(host.submit(pool, nap, 0.5)) == 0.5
    took = fails_after(host, pool, nap_for_ever, TaskTimeoutError)
    assert 0.95 < took < 5, took
    assert [host.result(host.submit(pool, square, n)) for n in range(4)] == [0, 1, 4, 9]


def nap_for_ever() -> None:
    nap(3600)


def main() -> None:
    tool, when, binding, method = sys.argv[1:]
    module, _, name = binding.partition(":")
    host = getattr(importlib.import_module(module), name)()
    before = real()
    events: list[Any] = []
    with contextlib.ExitStack() as stack:
        if when == "frozen":
            stack.enter_context(TOOLS[tool]())
        # What a frozen task and its real start would be compared with, if they were of two clocks.
        pool = host.make_pool(2, method, timeout=1.0, on_event=events.append)
        if when == "later":
            stack.enter_context(TOOLS[tool]())
        check(host, pool)
        start = real()
        if when == "frozen":
            host.close(pool)
    if when == "later":
        # And what was begun in there goes on outside.
        check(host, pool)
        host.close(pool)
    assert real() - start < 15
    kinds = {event.kind for event in events}
    assert {"task_lost", "task_timeout"} <= kinds, kinds
    with tempfile.TemporaryFile() as file:
        now = os.fstat(file.fileno()).st_mtime
    if not tool.startswith("time_machine"):  # it replaces the system's own clock, as far as Python sees it
        assert all(now - (real() - before) - 1 < event.time < now + 1 for event in events), events


if __name__ == "__main__":
    main()
