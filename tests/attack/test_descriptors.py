"""Descriptors that are not ours: programs that close what they do not know, and give the numbers to others.

Siblings of one fault. *Who closes*: the program's starter (0, 1, 2), an initializer that silences its
workers, a task, a thread of a task, the parent. *What*: the standard ones; every regular file; every number
but the host's pipes. *What comes in their place*: a file of the user's under the lowest number; the same
under each of the numbers that were ours (``dup2``). *What writes*: C code to 2; payloads of all sizes; a
stack, asked for by a timeout. *Out of them*: no descriptor is left in the parent while a worker dies.

Nothing of ours may land in a file of the user's, and every result is the task's own.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from poolwarden import TaskTimeoutError, WorkerLostError, limits
from poolwarden.testing import hang
from tests.contract.base import ContractBase, Pools
from tests.contract.binding import PoolBinding
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes /proc and memory files")

#: Bytes: inside a message, beyond it, beyond a pipe.
SIZES = (10, 5_000, 90_000, 2_000_000)
MINE = b"the user's own file\n"


def close_standard() -> None:
    for fd in (1, 2):
        os.close(fd)


def close_all_standard() -> None:
    for fd in (0, 1, 2):
        os.close(fd)


def shout(number: int, size: int) -> bytes:
    """Write to 2 as C code does, and return something of that size."""
    libc = ctypes.CDLL(None)
    libc.write(2, b"#" * 4096, 4096)
    return bytes([number % 256]) * size


def regular_files() -> list[int]:
    """Return the descriptors of this process that are files, memory files among them; not what runs it."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISREG(os.fstat(int(name)).st_mode):
                found.append(int(name))
        except OSError:
            continue
    return found


def take_over(path: str) -> int:
    """Close every file that is open here and have the user's own under each of their numbers."""
    numbers = [fd for fd in regular_files() if fd > 2]
    mine = os.open(path, os.O_RDWR | os.O_APPEND)
    for fd in numbers:
        os.dup2(mine, fd)
    return len(numbers)


def close_unknown(path: str) -> int:
    """Close every file that is open here, and open the user's own under the numbers that are free."""
    numbers = [fd for fd in regular_files() if fd > 2]
    for fd in numbers:
        os.close(fd)
    for _ in range(20):
        os.open(path, os.O_RDWR | os.O_APPEND)
    return len(numbers)


def make(number: int, size: int) -> bytes:
    return bytes([number % 256]) * size


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Descriptors(ContractBase):
    """What each host has to stand."""

    variations = 3
    binding: ClassVar[type[PoolBinding]]
    #: What a program may be started without; loky cannot start a worker without a standard output.
    without: ClassVar[tuple[str, ...]] = ("<&-", ">&- 2>&-", "<&- >&- 2>&-")

    @pytest.fixture
    def mine(self, tmp_path: Path) -> Path:
        path = tmp_path / "mine"
        path.write_bytes(MINE)
        return path

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("initializer", [close_standard, close_all_standard])
    def test_c_code_writes_to_what_the_initializer_has_closed(
        self, host: PoolBinding, make_pool: Pools, initializer: Callable[[], None]
    ) -> None:
        pool = make_pool(initializer=initializer)
        handles = [(n, size, host.submit(pool, shout, n, size)) for n in range(15) for size in SIZES[:3]]
        for number, size, handle in handles:
            assert host.result(handle) == bytes([number]) * size

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("change", [take_over, close_unknown])
    def test_a_task_gives_the_numbers_to_its_own_file(
        self, host: PoolBinding, make_pool: Pools, mine: Path, change: Callable[[str], int]
    ) -> None:
        pool = make_pool(1)
        host.result(host.submit(pool, make, 1, 10))
        host.result(host.submit(pool, change, str(mine)))
        for number in range(5):
            for size in SIZES:
                data = bytes([number]) * size
                assert host.result(host.submit(pool, bytes, data)) == data
                assert host.result(host.submit(pool, make, number, size)) == data
        with pytest.raises(TaskTimeoutError):
            host.result(host.submit(pool, limits(hang(), timeout=0.3)))
        assert mine.read_bytes() == MINE

    def test_the_parent_gives_the_numbers_to_its_own_file(self, host: PoolBinding, mine: Path) -> None:
        """In a process of its own: the test runner needs its files."""
        where = f"{self.binding.__module__}:{self.binding.__qualname__}"
        command = [sys.executable, "-m", "tests.attack.test_descriptors", where, str(mine)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        assert mine.read_bytes() == MINE

    def test_a_program_that_was_started_without_them(self, host: PoolBinding, tmp_path: Path) -> None:
        where = f"{self.binding.__module__}:{self.binding.__qualname__}"
        for number, closed in enumerate(self.without):
            said = tmp_path / str(number)
            program = f"'{sys.executable}' -m tests.attack.test_descriptors {where} '{said}' closed {closed}"
            assert subprocess.run(["sh", "-c", f"exec {program}"], timeout=60).returncode == 0, closed
            assert said.read_text() == "right"

    def test_no_descriptor_is_left_while_a_worker_dies(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(2, timeout=8)
        host.idle_pids(pool)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        handle = host.submit(pool, limits(hang(), timeout=6))
        taken: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
            try:
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            victim = host.submit(pool, die)
            with pytest.raises(WorkerLostError):
                host.result(victim, 20)
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with pytest.raises(TaskTimeoutError):
            host.result(handle, 30)


class TestPool(Descriptors):
    binding = BindPool


class TestExecutor(Descriptors):
    binding = BindExecutor


@pytest.mark.usefixtures("warm_loky")
class TestLoky(Descriptors):
    binding = BindLoky
    variations = 2
    without = ("<&-",)


@pytest.mark.usefixtures("warm_loky")
class TestJoblib(Descriptors):
    binding = BindJoblib
    #: joblib itself opens files at each call.
    test_no_descriptor_is_left_while_a_worker_dies = None  # type: ignore[assignment]
    variations = 2
    without = ("<&-",)


def program(where: str, path: str, closed: str = "") -> None:
    """Use a pool, and give the numbers of all files to the one in `path`; or write there what came of it."""
    import importlib

    module, _, name = where.partition(":")
    host: Any = getattr(importlib.import_module(module), name)()
    pool = host.make_pool(2, "fork" if "fork" in host.start_methods else None)
    if not closed:
        host.result(host.submit(pool, make, 1, 10))
        take_over(path)
    for number in range(10):
        for size in SIZES:
            handle = host.submit(pool, shout if closed else make, number, size)
            assert host.result(handle) == make(number, size)
    try:
        host.result(host.submit(pool, die))
    except WorkerLostError:
        assert host.result(host.submit(pool, bytes, b"x" * 100_000)) == b"x" * 100_000
        host.close(pool)
        if closed:
            Path(path).write_text("right")


if __name__ == "__main__":
    program(*sys.argv[1:])
