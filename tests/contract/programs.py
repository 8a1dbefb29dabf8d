"""Programs that tests start, for what cannot happen to the test process itself.

``python -m tests.contract.programs NAME BINDING START_METHOD [ARG...]`` runs one
function of this module, with the binding given as ``module:class``. A program
checks for itself what it can see (its exit status is the verdict) and prints
one line of JSON for what only the test can check.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from poolwarden import WorkerLostError
from poolwarden.system.watchdog import watchdog
from poolwarden.testing import deaf, die, fill_memory, hang, hold_gil, kill_self, spin
from poolwarden.worker.ledger import READY
from tests.contract.binding import PoolBinding
from tests.contract.tasks import HeldUntil, Noted, square
from tests.contract.waiting import DEADLINE, ENDING, all_gone, eventually, lines_of, within

FAULTS = {"hang": hang, "spin": spin, "hold_gil": hold_gil, "deaf": lambda: deaf(hold_gil())}


def tell(**facts: Any) -> None:
    """Print one line that the test reads."""
    print(json.dumps(facts), flush=True)


def serves(host: PoolBinding, pool: Any) -> None:
    handles = [host.submit(pool, square, n) for n in range(6)]
    results = [host.result(handle) for handle in handles]
    assert results == [0, 1, 4, 9, 16, 25], results


def loses(host: PoolBinding, handle: Any) -> WorkerLostError:
    """Return the error of a task that has to be lost."""
    try:
        result = host.result(handle)
    except WorkerLostError as error:
        return error
    raise AssertionError(f"not lost: {result!r}")


def have_joined(pids: list[int]) -> bool:
    """Return whether these workers have joined their guarded pools; those older than the guard do so late."""
    guards: set[Any] = {owner for owner in watchdog().owners() if hasattr(owner, "live_workers")}
    workers = [worker for guard in guards for worker in guard.live_workers()]
    return set(pids) <= {worker.pid for worker in workers if worker.snapshot().phase >= READY}


def busy(host: PoolBinding, method: str, path: str, *faults: str) -> None:
    """Keep one worker busy with each fault ("idle": none, not even used), then wait for input."""
    pool = host.make_pool(max(2, len(faults)), method)
    busy_ones = [FAULTS[fault]() for fault in faults if fault in FAULTS]
    if "used" in faults:
        serves(host, pool)
    for fault in busy_ones:
        host.submit(pool, Noted(path, fault))
    eventually(lambda: len(lines_of(path)) == len(busy_ones), "tasks started")
    # Those that are older than the guard know of it only then.
    eventually(lambda: have_joined(host.worker_pids(pool)), "all workers joined")
    tell(workers=host.worker_pids(pool))
    sys.stdin.read()


def interrupted(host: PoolBinding, method: str, path: str, call: str) -> None:
    """Wait inside one call for tasks that never end, until Ctrl-C."""
    with host.make_pool(2, method) as pool:
        serves(host, pool)
        tell(workers=host.worker_pids(pool))
        host.blocking[call](pool, Noted(path, hang()), [1, 2, 3, 4])
        raise SystemExit("the call came back")


def interrupted_idle(host: PoolBinding, method: str, path: str) -> None:
    """Wait for something else while the pool is idle, until Ctrl-C."""
    with host.make_pool(2, method, initializer=Noted(path, square), initargs=(1,)) as pool:
        serves(host, pool)
        eventually(lambda: len(lines_of(path)) == 2, "both workers ready: an interpreter that starts tells")
        # One task for each at the same time: a worker that is older than the
        # guard and has met no guarded code yet tells of Ctrl-C as the bare one does.
        for handle in [host.submit(pool, time.sleep, 0.3) for _ in range(2)]:
            host.result(handle)
        tell(workers=host.idle_pids(pool))
        # Not in one: a signal that comes right before a sleep begins does not end it.
        for _ in range(int(DEADLINE * 10)):
            time.sleep(0.1)


def deaths(host: PoolBinding, method: str, path: str) -> None:
    """Go through rows 1 and 4, then end the pool in time."""
    pool = host.make_pool(2, method)
    serves(host, pool)
    for fault in (kill_self(), die(0), die(3)):
        lost = host.submit(pool, fault)
        serves(host, pool)
        loses(host, lost)
    stuck = host.submit(pool, Noted(path, HeldUntil(f"{path}.never")))
    eventually(lambda: lines_of(path), "a task started")
    os.kill(int(lines_of(path)[0].split()[0]), signal.SIGKILL)
    loses(host, stuck)
    for _ in range(2):
        for pid in host.idle_pids(pool):
            os.kill(pid, signal.SIGKILL)
        serves(host, pool)
    pids = host.worker_pids(pool)
    spent = time.process_time()
    time.sleep(1)
    spent = time.process_time() - spent
    assert spent < 0.5, f"an idle pool took {spent:.2f} s of a second's processor time"
    within(ENDING, host.terminate, pool)
    all_gone(pids)
    tell(done=True)


def sigchld_ignored(host: PoolBinding, method: str, path: str) -> None:
    """Rows 1 and 4 while the kernel reaps every child."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    deaths(host, method, path)


def reaped_elsewhere(host: PoolBinding, method: str, path: str) -> None:
    """Rows 1 and 4 while another thread reaps every child it can get."""

    def reap() -> None:
        while True:
            try:
                os.wait()
            except ChildProcessError:
                time.sleep(0.001)

    threading.Thread(target=reap, daemon=True).start()
    deaths(host, method, path)


def fork_server_killed(host: PoolBinding, method: str, path: str) -> None:
    """Rows 1 and 4 after the fork server has gone, once with a task in flight."""
    pool = host.make_pool(2, method)
    serves(host, pool)
    running = host.submit(pool, Noted(path, HeldUntil(f"{path}.go")), 7)
    eventually(lambda: lines_of(path), "a task started")
    workers = host.worker_pids(pool)
    server = importlib.import_module(f"{host.package}.forkserver")._forkserver._forkserver_pid
    os.kill(server, signal.SIGKILL)
    all_gone([server])
    serves(host, pool)
    open(f"{path}.go", "w").close()
    with contextlib.suppress(WorkerLostError):  # its worker may be ended: the host cannot wait for it
        assert host.result(running) == 7
    workers += host.worker_pids(pool)
    within(ENDING, host.terminate, pool)
    all_gone(workers)
    os.unlink(path)
    deaths(host, method, path)


def exits_with_the_pool_open(host: PoolBinding, method: str, path: str, past: str) -> None:
    """Leave the interpreter without ending the pool."""
    globals()["_kept"] = pool = host.make_pool(2, method)  # as a script's global is
    serves(host, pool)
    workers = host.worker_pids(pool)
    if past == "lost":
        host.submit(pool, kill_self())
    elif past == "idle_killed":
        for pid in host.idle_pids(pool):
            os.kill(pid, signal.SIGKILL)
    elif past in FAULTS:
        host.submit(pool, Noted(path, FAULTS[past]()))
        eventually(lambda: lines_of(path), "a task started")
    tell(workers=workers)


def one_after_another(host: PoolBinding, method: str) -> None:
    """Make a pool when the one before has ended, several times."""
    for _ in range(10):
        pool = host.make_pool(2, method)
        serves(host, pool)
        host.close(pool)


def out_of_memory(host: PoolBinding, method: str, limit: str) -> None:
    """Let one task of several outgrow the memory that this process's group may use."""
    events: list[Any] = []
    pool = host.make_pool(2, method, on_event=events.append)
    serves(host, pool)
    greedy = host.submit(pool, fill_memory(2 * int(limit)))
    others = [host.submit(pool, square, n) for n in range(5)]
    error = loses(host, greedy)
    tell(**asdict(error.exit), text=str(error))
    assert [host.result(other) for other in others] == [0, 1, 4, 9, 16]
    serves(host, pool)
    within(ENDING, host.terminate, pool)


def main(name: str, binding: str, method: str, *args: str) -> None:
    """Run one program of this module."""
    module, _, cls = binding.partition(":")
    host: PoolBinding = getattr(importlib.import_module(module), cls)()
    program: Callable[..., None] = globals()[name]
    program(host, method, *args)


if __name__ == "__main__":
    main(*sys.argv[1:])
