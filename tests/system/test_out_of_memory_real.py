"""A real out-of-memory kill in a memory cgroup that this test makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from poolwarden.core.diagnosis import Evidence, diagnose
from poolwarden.system.cgroup import MemoryCgroups
from poolwarden.system.kernel_log import KernelLog
from poolwarden.system.out_of_memory import OomWatch

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cgroups are Linux's")

LIMIT = 48 * 2**20
DEADLINE = 30

# Waits to be told, so that it is in the cgroup first; then touches more memory than it may have.
GREEDY = f"""
import sys
sys.stdin.readline()
chunks = [bytearray(b"x" * 2**20) for _ in range({4 * LIMIT // 2**20})]
print("survived", flush=True)
"""


class Cgroup:
    """A memory cgroup below our own, with a limit."""

    def __init__(self):
        cgroups = MemoryCgroups()
        own = cgroups.path_of("self")
        counters = cgroups.counters(own) if own else []
        if not counters:
            pytest.skip("no memory cgroup is mounted here")
        self.directory = counters[0].file.parent / f"poolwarden-test-{os.getpid()}"
        self.path = f"{counters[0].cgroup.rstrip('/')}/{self.directory.name}"
        self.version = cgroups.version
        try:
            self.directory.mkdir()
        except OSError as error:
            pytest.skip(f"a memory cgroup cannot be made here: {error}")

    @classmethod
    def below(cls, above, name):
        """Return a cgroup without a limit below another one."""
        made = cls.__new__(cls)
        made.directory, made.path = above.directory / name, f"{above.path}/{name}"
        made.version = above.version
        if made.version == 2:
            try:
                (above.directory / "cgroup.subtree_control").write_text("+memory")
            except OSError as error:
                pytest.skip(f"a memory cgroup cannot have others below it here: {error}")
        made.directory.mkdir()
        return made

    def limit(self):
        limit, swap = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if self.version == 2:
            limit, swap = "memory.max", "memory.swap.max"
        try:
            (self.directory / limit).write_text(str(LIMIT))
        except OSError as error:
            pytest.skip(f"a memory cgroup cannot be limited here: {error}")
        if (self.directory / swap).exists():
            (self.directory / swap).write_text(str(LIMIT if self.version == 1 else 0))

    def add(self, pid):
        try:
            (self.directory / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            pytest.skip(f"a process cannot be put into a memory cgroup here: {error}")

    def remove(self):
        """Try until the kernel has let go of the processes, which takes a moment."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return self.directory.rmdir()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)


@pytest.fixture
def cgroup():
    cgroup = Cgroup()
    try:
        cgroup.limit()
        yield cgroup
    finally:
        cgroup.remove()


@pytest.fixture
def greedy(cgroup):
    """A process that asks for too much memory as soon as it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)


def let_it_die(process):
    """Return once it has exited; it is not waited for yet."""
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.read() == ""  # the pipe closes at its end; "survived" would be in it
    end = time.monotonic() + DEADLINE
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("reaped", [False, True], ids=["exited", "waited-for"])
def test_the_counter_of_its_cgroup_is_named(cgroup, greedy, reaped):
    watch = OomWatch()
    cgroup.add(greedy.pid)
    watch.note(greedy.pid)
    let_it_die(greedy)
    if reaped:
        greedy.wait(DEADLINE)

    said = watch.moved(greedy.pid)

    assert said == f"memory cgroup {cgroup.path}: oom_kill 0 → 1"
    assert greedy.wait(DEADLINE) == -signal.SIGKILL
    assert diagnose(Evidence(greedy.pid, greedy.returncode, oom=said)).cause == "oom"


def test_a_worker_put_there_after_its_birth_is_likely(cgroup, greedy):
    watch = OomWatch()
    watch.note(greedy.pid)
    cgroup.add(greedy.pid)
    let_it_die(greedy)
    if cgroup.version == 1 and KernelLog().names(greedy.pid, 1) is None:
        pytest.skip("version 1 does not tell where it was, and the kernel's log cannot be read here")

    said = watch.moved(greedy.pid)

    assert said is not None
    assert said.startswith("likely: ")
    assert (cgroup.path if cgroup.version == 2 else "this machine's oom_kill") in said


def test_a_plain_sigkill_moves_no_counter_of_its_cgroup(cgroup, greedy):
    watch = OomWatch()
    cgroup.add(greedy.pid)
    watch.note(greedy.pid)
    greedy.kill()
    assert greedy.stdout.read() == ""
    greedy.wait(DEADLINE)

    # Though another process of this machine may run out of memory meanwhile.
    assert watch.moved(greedy.pid) is None
