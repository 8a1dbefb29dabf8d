"""The check that runs after each test finds what it says it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from poolwarden.core.pool_memory import PoolMemory
from tests.contract.leaks import Snapshot, reap_adopted
from tests.contract.waiting import all_gone, eventually, lines_of, within

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def before() -> Snapshot:
    return Snapshot.take()


def left_since(before: Snapshot) -> str:
    return "\n".join(Snapshot.take().left_since(before))


def test_nothing_is_nothing(before: Snapshot) -> None:
    assert left_since(before) == ""


def test_a_child(before: Snapshot) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert f"process {child.pid}" in left_since(before)
    finally:
        child.kill()
        child.wait()
    assert left_since(before) == ""


def test_an_orphan_that_closed_and_detached_everything(before: Snapshot, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    subprocess.run(["sh", "-c", f'setsid sleep 60 & echo $! > "{path}"'], check=True)
    (orphan,) = map(int, eventually(lambda: lines_of(path), "the orphan's pid"))
    try:
        assert f"process {orphan}" in left_since(before)
    finally:
        os.kill(orphan, signal.SIGKILL)
        all_gone([orphan])
        reap_adopted()
    assert left_since(before) == ""


def test_a_thread(before: Snapshot) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True, name="left behind")
    thread.start()

    assert "thread left behind" in left_since(before)

    stop.set()
    thread.join()
    assert left_since(before) == ""


def test_a_second_watchdog(before: Snapshot) -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait, name=f"poolwarden-{n}") for n in range(2)]
    for thread in threads:
        thread.start()

    assert "threads of poolwarden" in left_since(before)

    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("make", [os.pipe, lambda: [os.open("/dev/null", os.O_RDONLY)]], ids=["pipe", "file"])
def test_descriptors(before: Snapshot, make: Any) -> None:
    fds = make()
    assert f"{len(fds)} descriptors" in left_since(before)
    for fd in fds:
        os.close(fd)
    assert left_since(before) == ""


def test_shared_memory_of_a_pool(before: Snapshot) -> None:
    memory = PoolMemory(1, "pickle:Pickler")
    assert "shared memory" in left_since(before)
    memory.close()
    assert left_since(before) == ""


def test_a_call_that_does_not_end_is_shown() -> None:
    stop = threading.Event()
    try:
        with pytest.raises(AssertionError, match=r"did not end within 0\.05 s") as caught:
            within(0.05, stop.wait, 30)
        assert "in wait" in str(caught.value)
    finally:
        stop.set()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "test: wait"], "the thread gone")


def test_within_returns_and_raises() -> None:
    assert within(5, pow, 2, 3) == 8
    with pytest.raises(ZeroDivisionError):
        within(5, divmod, 1, 0)


def test_what_never_comes_is_named() -> None:
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"not within 0\.02 s: the moon"):
        eventually(lambda: False, "the moon", 0.02)
    assert time.monotonic() > start
