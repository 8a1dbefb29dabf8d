"""An exit status that several threads ask for at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection
from typing import Any

import pytest

from poolwarden.system.process_handle import Handle
from tests.contract.waiting import within

ROUNDS, THREADS = 15, 3

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="this system has no fork servers"
)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def _many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_many_switches")
@pytest.mark.parametrize("how", ["poll", "wait"])
def test_all_get_the_status_of_the_worker(how: str) -> None:
    for _ in range(ROUNDS):
        process = multiprocessing.get_context("forkserver").Process(target=kill_self)
        process.start()
        handle = Handle(process)
        codes: list[int] = []

        def ask(process: multiprocessing.process.BaseProcess = process, codes: list[int] = codes) -> None:
            popen = process._popen  # type: ignore[attr-defined]
            if how == "wait":
                codes.append(popen.wait())
                return
            while (code := popen.poll()) is None:
                pass
            codes.append(code)

        threads = [threading.Thread(target=ask) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert codes == [-signal.SIGKILL] * THREADS
        assert process.exitcode == -signal.SIGKILL
        handle.close()
        process.close()


def test_a_signal_handler_may_ask_while_its_thread_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """As may the end of a pool that is collected at that moment."""
    process = multiprocessing.get_context("forkserver").Process(target=kill_self)
    process.start()
    handle = Handle(process)
    nested: list[int | None] = []

    def wait(*args: Any) -> list[Any]:
        monkeypatch.undo()
        ready = connection.wait(*args)
        nested.append(process.exitcode)
        return ready

    # Not its end, which is seen before the fork server has told of it.
    assert connection.wait([process.sentinel], 20)
    monkeypatch.setattr(connection, "wait", wait)
    assert within(20, lambda: process.exitcode) == -signal.SIGKILL
    assert nested == [-signal.SIGKILL]
    assert process.exitcode == -signal.SIGKILL
    handle.close()
    process.close()
