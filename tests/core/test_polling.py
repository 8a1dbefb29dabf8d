"""An exit status that several threads ask for at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from poolwarden.core.handles import Handle

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
