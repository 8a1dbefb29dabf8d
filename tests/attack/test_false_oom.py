"""Who is told as out of memory: real kills in real memory cgroups, beside real pools.

The kind: a counter moved, and not because of this worker. Siblings:

- another program of the machine is killed in a cgroup of its own, next to ours or below ours;
- a worker that has left its cgroup is killed there: out of memory, though its old counter stood still;
- a limit above the victim's cgroup is reached: it is counted in the victim's cgroup;
- a kill long ago, or older than the worker (made-up trees in tests/core/test_oom.py, version 2 there too).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from poolwarden import WorkerLostError, guard
from poolwarden.system.kernel_log import KernelLog
from poolwarden.system.out_of_memory import OomWatch
from tests.contract.waiting import DEADLINE
from tests.system.test_out_of_memory_real import GREEDY, LIMIT, Cgroup, cgroup, greedy, let_it_die

__all__ = ["cgroup", "greedy"]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cgroups are Linux's")


def kill_self_when(event_file, number=signal.SIGKILL):
    with open(event_file) as file:  # a FIFO: opens when the test does, reads its end
        file.read()
    os.kill(os.getpid(), number)


def move_and_eat(directory):
    with open(f"{directory}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    return len([bytearray(b"x" * 2**20) for _ in range(4 * LIMIT // 2**20)])


def submit(kind, pool, function, *args):
    if kind == "Pool":
        return pool.apply_async(function, args).get
    return pool.submit(function, *args).result


@pytest.fixture(params=["Pool", "executor"])
def kind(request):
    return request.param


@contextlib.contextmanager
def guarded(kind):
    """Make a pool; no fixture, for pytest would keep it until its descriptors are counted."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) if kind == "Pool" else ProcessPoolExecutor(2, mp_context=context) as pool:
        yield guard(pool)
    if kind == "Pool":
        pool.join()


def test_a_task_that_killed_itself_while_another_program_ran_out_of_memory(kind, greedy, cgroup, tmp_path):
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    cgroup.add(greedy.pid)
    with guarded(kind) as pool:
        get = submit(kind, pool, kill_self_when, str(fifo))
        let_it_die(greedy)
        fifo.write_text("")
        with pytest.raises(WorkerLostError) as caught:
            get(timeout=DEADLINE)
    assert caught.value.exit.cause == "signal"
    assert caught.value.exit.evidence == ()
    assert "likely out of memory" not in str(caught.value)


def test_a_task_that_ran_out_of_memory_in_a_cgroup_that_it_went_to(kind, cgroup):
    with guarded(kind) as pool, pytest.raises(WorkerLostError) as caught:
        submit(kind, pool, move_and_eat, str(cgroup.directory))(timeout=DEADLINE)
    if cgroup.version == 1 and KernelLog().names(os.getpid(), 1) is None:
        pytest.skip("version 1, and the kernel's log cannot be read: nobody can know")
    assert caught.value.exit.cause == "oom"
    assert any("likely" in text for text in caught.value.exit.evidence)


def test_a_limit_above_is_counted_in_the_victims_cgroup(cgroup, greedy):
    below = Cgroup.below(cgroup, "victim")
    try:
        watch = OomWatch()
        below.add(greedy.pid)
        watch.note(greedy.pid)
        let_it_die(greedy)
        assert watch.moved(greedy.pid) == f"memory cgroup {below.path}: oom_kill 0 → 1"
    finally:
        greedy.wait(DEADLINE)
        below.remove()


def test_a_victim_below_is_not_the_workers(cgroup, greedy):
    below = Cgroup.below(cgroup, "victim")
    bystander = subprocess.Popen([sys.executable, "-c", GREEDY], stdin=subprocess.PIPE)
    try:
        cgroup.add(bystander.pid)
        watch = OomWatch()
        watch.note(bystander.pid)
        below.add(greedy.pid)
        let_it_die(greedy)
        bystander.kill()
        bystander.wait(DEADLINE)
        assert watch.moved(bystander.pid) is None
    finally:
        bystander.kill()
        bystander.communicate()
        greedy.wait(DEADLINE)
        below.remove()
