"""Random kills into a stream of tasks, while every answer is checked.

Runnable by itself::

    python -m tests.chaos --host pool --start fork --tasks 20000 --kills 500 --seed 1

Workers are killed at random moments: running, reading, sending, starting, and,
between two rounds, with no task outstanding at all. Exit status 0 means that
each task had its right answer or a `WorkerLostError` that blames a worker
killed here, that none ran or was answered twice, that shutdown ended and that
no process was left. What is right is decided in `tests.chaos_verdict`.

The seed fixes the tasks, the submission methods and the order of the kills;
the moments are the kernel's. A run without progress is ended and reported.
Linux only. Does not cover timeouts and retries.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import logging
import math
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos_kills import Killer, describe, offspring, slay_all
from tests.chaos_tasks import Group, Reply, Shape, Tally, work
from tests.chaos_verdict import Verdict, judge

SIZES = {0: 82.7, 1 << 10: 7, 5 << 10: 6, 100 << 10: 4, 2 << 20: 0.3}  # bytes: weight; PIPE_BUF is 4096
WINDOWS = (4, 16, 64, 200)  # tasks outstanding at most; the smallest leaves workers idle
DELAYS = (0, 0.0001, 0.0005, 0.003)  # seconds from an answer to a kill at most
PROGRESS = 30.0  # seconds from one line that says how far it is to the next
LEAVE = 5.0  # seconds a process may take to go away after the shutdown


class PoolHost:
    """`multiprocessing.Pool`. Another host needs the same five methods."""

    maps = ("map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def loss(self) -> type[BaseException] | tuple[type[BaseException], ...]:
        """Return the errors that a task of a killed worker may end with."""
        if self._options.bare:
            return ()
        from poolwarden import WorkerLostError

        return WorkerLostError

    def open(self) -> Any:
        """Return a new pool, guarded unless ``--bare``."""
        context = multiprocessing.get_context(self._options.start)
        pool = context.Pool(self._options.workers, maxtasksperchild=self._options.recycle)
        if self._options.bare:
            return pool
        from poolwarden import guard

        return guard(pool, losses=self._options.losses)

    def workers(self, pool: Any) -> list[Any]:
        """Return the `Process` objects of the workers as of now."""
        return list(pool._pool)

    def submit(self, pool: Any, group: Group, reply: Reply, log: str) -> None:
        """Submit the tasks of `group` by its method; do not wait for answers."""
        calls = [shape.call(log) for shape in group.shapes]
        if group.method == "apply_async":
            pool.apply_async(work, calls[0], callback=reply.one, error_callback=reply.failed)
        elif group.method == "map_async":
            pool.map_async(work_item, calls, group.chunksize, reply.every, reply.failed)
        elif group.method == "starmap_async":
            pool.starmap_async(work, calls, group.chunksize, reply.every, reply.failed)
        else:
            # A thread for each call that blocks: one that never returns must not hide the others' answers.
            threading.Thread(target=_wait, args=(pool, group, reply, calls), daemon=True).start()

    def close(self, pool: Any) -> None:
        """Shut `pool` down as its documentation says."""
        pool.close()
        pool.join()
        pool.terminate()  # what leaving ``with`` and the interpreter's exit do in any case


def _wait(pool: Any, group: Group, reply: Reply, calls: list[Any]) -> None:
    try:
        if group.method == "apply":
            reply.one(pool.apply(work, calls[0]))
        elif group.method == "map":
            reply.every(pool.map(work_item, calls, group.chunksize))
        elif group.method == "starmap":
            reply.every(pool.starmap(work, calls, group.chunksize))
        else:
            reply.each(iter(getattr(pool, group.method)(work_item, calls, group.chunksize)))
    except Exception as error:
        reply.failed(error)


def work_item(call: tuple[int, bytes, int, float, str]) -> tuple[int, int, bytes]:
    """Return `work` of one item of ``map`` and ``imap``."""
    return work(*call)


class LokyHost(PoolHost):
    """``loky.ProcessPoolExecutor``."""

    maps = ("map",)

    def open(self) -> Any:
        """Return a new executor, guarded unless ``--bare``."""
        executor = self.make()
        if self._options.bare:
            return executor
        from poolwarden import guard

        return guard(executor, losses=self._options.losses)

    def make(self) -> Any:
        """Return a bare executor."""
        from loky import ProcessPoolExecutor
        from loky.backend import get_context

        return ProcessPoolExecutor(self._options.workers, context=get_context(self._options.start))

    def workers(self, pool: Any) -> list[Any]:
        """Return the `Process` objects of the workers as of now."""
        return list(pool._processes.values())

    def submit(self, pool: Any, group: Group, reply: Reply, log: str) -> None:
        """Submit the tasks of `group` by its method; do not wait for answers."""
        calls = [shape.call(log) for shape in group.shapes]
        if group.method == "map":
            results = iter(pool.map(work_item, calls, chunksize=group.chunksize))
            threading.Thread(target=reply.each, args=(results,), daemon=True).start()
            return

        def answer(future: Any) -> None:
            error = future.exception()
            if error is None:
                reply.one(future.result())
            else:
                reply.failed(error)

        pool.submit(work, *calls[0]).add_done_callback(answer)

    def close(self, pool: Any) -> None:
        """Shut the executor down as its documentation says."""
        pool.shutdown()


class ReusableHost(LokyHost):
    """``loky.get_reusable_executor``, whose idle workers leave after a while."""

    def make(self) -> Any:
        """Return a bare executor."""
        from loky import get_reusable_executor
        from loky.backend import get_context

        return get_reusable_executor(self._options.workers, get_context(self._options.start), timeout=2)


class ExecutorHost(LokyHost):
    """`concurrent.futures.ProcessPoolExecutor`."""

    def make(self) -> Any:
        """Return a bare executor."""
        from concurrent.futures import ProcessPoolExecutor

        recycling = {"max_tasks_per_child": self._options.recycle} if self._options.recycle else {}
        context = multiprocessing.get_context(self._options.start)
        return ProcessPoolExecutor(self._options.workers, context, **recycling)


HOSTS: dict[str, Callable[[argparse.Namespace], PoolHost]] = {
    "pool": PoolHost,
    "executor": ExecutorHost,
    "loky": LokyHost,
    "loky-reusable": ReusableHost,
}


def plan(options: argparse.Namespace, maps: Iterable[str]) -> Iterator[Group]:
    """Yield groups of all tasks: seven tenths alone, the rest in `maps`."""
    rng, tasks, losses = random.Random(f"{options.seed} tasks"), options.tasks, options.losses
    sizes, weights, methods = list(SIZES), list(SIZES.values()), list(maps)
    number = 0
    while number < tasks:
        alone = rng.random() > 0.034
        count = 1 if alone else min(rng.randint(2, 24), tasks - number)
        method = rng.choice(("apply_async", "apply_async", "apply")) if alone else rng.choice(methods)
        chunksize = 1 if alone else rng.randint(1, 6)
        shapes = [
            Shape(n, *rng.choices(sizes, weights, k=2), pause=0.001 if rng.random() < 0.15 else 0.0)
            for n in range(number, number + count)
        ]
        may_hide = losses == "raise" and not alone and (chunksize > 1 or not method.startswith("imap"))
        yield Group(method, shapes, chunksize, may_hide)
        number += count


class Run:
    """One run of a host under kills.

    Parameters
    ----------
    host : PoolHost
        How to make, use and close the pool.
    options : argparse.Namespace
        As of the command line.
    folder : str
        An empty folder, for the file in which tasks write that they ran.
    """

    def __init__(self, host: Any, options: argparse.Namespace, folder: str) -> None:
        self.folder = folder
        self.options = options
        self.tally = Tally(host.loss())
        self.killer = Killer(lambda: host.workers(self._pool), random.Random(f"{options.seed} busy"))
        self.over = threading.Event()
        self._host = host
        self._others = offspring()
        self._log = os.path.join(folder, "ran")
        Path(self._log).touch()
        self._pool: Any = None
        self._doing = "opening the pool"
        self._struck_until = 0.0
        self._shutdown = 0.0
        self._failure = ""

    def go(self) -> None:
        """Do all of it; return early when nothing moves any more."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._pool = self._host.open()
            self._begin("running tasks")
            self._submit_all()
            if not self.tally.stalled:
                self._begin("shutting down")
                began = time.monotonic()
                self._host.close(self._pool)
                self._shutdown = time.monotonic() - began
        except Exception:
            traceback.print_exc()
            self._failure = f"FAILED while {self._doing}: see the traceback"
        finally:
            self.over.set()

    def verdict(self) -> Verdict:
        """Return what came of it, after `go` or in place of it."""
        verdict = judge(self.tally, self.options.tasks, self._log, self.killer.kills)
        if self.tally.stalled:
            verdict.notes.append(f"NO PROGRESS for {self.options.patience:g} s while {self._doing}")
            return verdict
        if self._failure:
            verdict.notes.append(self._failure)
        deadline = time.monotonic() + LEAVE
        while (left := offspring() - self._others) and time.monotonic() < deadline:
            time.sleep(0.02)  # the fork server's processes are not ours to wait for
        verdict.left = len(left)
        if self._shutdown > LEAVE:
            verdict.notes.append(f"SHUTDOWN took {self._shutdown:.1f} s")
        if verdict.kills < 0.9 * self.options.kills:
            verdict.notes.append(f"ONLY {verdict.kills} of {self.options.kills} kills found a worker")
        return verdict

    def _begin(self, doing: str) -> None:
        self._doing = doing
        self.tally.beat = time.monotonic()

    def _watch(self) -> None:
        patience, told = self.options.patience, time.monotonic()
        while not self.over.wait(patience / 20):
            if time.monotonic() - told > PROGRESS:
                told = time.monotonic()
                self._tell_progress()
            if time.monotonic() - self.tally.beat > patience:
                self.tally.stall()
                if not self.over.wait(LEAVE):  # the main thread is stuck inside the pool
                    leave(self)
                return

    def _tell_progress(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        done, total = self.tally.settled, self.options.tasks
        line = f"  {time.strftime('%H:%M:%S')} {done} of {total} tasks ({100 * done // total} %)"
        print(f"{line}, {len(self.killer.kills)} kills, peak {peak} MB", file=sys.stderr, flush=True)

    def _submit_all(self) -> None:
        options, tally = self.options, self.tally
        rng = random.Random(f"{options.seed} idle")
        idle_kills = options.kills // 4
        rounds = max(1, idle_kills // 3)
        thread = threading.Thread(target=self._kill_busy, args=(options.kills - idle_kills,), daemon=True)
        thread.start()
        window, done, spent = WINDOWS[-1], 0, 0
        for group in plan(options, self._host.maps):
            most = window - len(group.shapes)
            if not tally.wait(functools.partial(self._may_submit, most)):
                return
            tally.submit(group)
            self._host.submit(self._pool, group, Reply(tally, group), self._log)
            if tally.submitted >= options.tasks * (done + 1) / rounds:
                if not tally.wait(lambda: tally.outstanding == 0):
                    return
                done += 1
                due = idle_kills * done // rounds
                spent += self._kill_idle(rng, due - spent)
                while done == rounds and spent < due:
                    spent += self._kill_idle(rng, due - spent) or due  # nobody there for a long time: give up
                window = rng.choice(WINDOWS)
        thread.join(LEAVE)

    def _may_submit(self, most: int) -> bool:
        """Return whether there is room, and the kills have kept up with the answers."""
        tally = self.tally
        return tally.outstanding <= max(0, most) and tally.settled <= self._struck_until + 20

    def _kill_busy(self, budget: int) -> None:
        """Strike each time some more tasks have been answered, to the end of `budget`."""
        rng = random.Random(f"{self.options.seed} moments")
        step = self.options.tasks / max(1, budget)
        spent = 0
        try:
            while spent < budget:
                count = min(budget - spent, rng.choices((1, 2), (85, 15))[0])
                due = min((spent + rng.random()) * step, self.options.tasks - 1)
                self._struck_until = due
                self.tally.nudge()
                if not self.tally.wait(lambda due=due: self.tally.settled >= due):
                    return
                time.sleep(rng.random() * rng.choice(DELAYS))  # away from the answer that woke us
                spent += self.killer.strike(count) or budget  # nobody there for a long time: give up
        finally:
            self._struck_until = math.inf
            self.tally.nudge()

    def _kill_idle(self, rng: random.Random, budget: int) -> int:
        """Kill workers of a pool that has nothing to do; return how many."""
        workers = self.options.workers
        ways = {"one": [1], "two": [2], "all": [workers], "each in turn": [1] * workers}
        spent = 0
        for count in ways[rng.choice(list(ways))]:
            count = min(count, budget - spent)
            if count > 0:
                time.sleep(rng.uniform(0, 0.005))  # at 0 some are still on their way back to the queue
                spent += self.killer.strike(count, idle=True)
        return spent


def leave(run: Run) -> None:
    """Print what is known of a run that is stuck, and end this process for sure."""
    try:
        print_verdict(run)
        if not run.options.bare:
            faulthandler.dump_traceback(all_threads=True)
            print(*map(describe, offspring()), sep="\n", file=sys.stderr, flush=True)
        shutil.rmtree(run.folder, ignore_errors=True)
        slay_all()
    finally:
        os._exit(1)  # leaving in the normal way would wait for the pool


def print_verdict(run: Run) -> bool:
    """Print the verdict and, on stderr, its details; return whether all was right."""
    options, verdict = run.options, run.verdict()
    how = "bare" if options.bare else f"guarded losses={options.losses}"
    what = f"{options.host} {options.start} {how} workers {options.workers} seed {options.seed}"
    print(f"{what}: {verdict}", flush=True)
    for kind, text in verdict.problems[:20]:
        print(f"  {kind}: {text}", file=sys.stderr)
    return verdict.ok


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--host", choices=HOSTS, default="pool")
    parser.add_argument("--start", choices=("fork", "spawn", "forkserver", "loky"), default="fork")
    parser.add_argument("--tasks", type=int, default=20000)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--losses", choices=("return", "raise"), default="return")
    parser.add_argument("--recycle", type=int, metavar="N", help="maxtasksperchild")
    parser.add_argument("--bare", action="store_true", help="no guard: shows what happens without")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without an answer that end it")
    return parser.parse_args(arguments)


def main() -> int:
    """Return the exit status of one run."""
    options = parse()
    logging.getLogger("poolwarden").setLevel(logging.ERROR)  # a warning for each kill is as it should be
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        run = Run(HOSTS[options.host](options), options, folder)
        began = time.monotonic()
        run.go()
        if run.tally.stalled:
            leave(run)
        right = print_verdict(run)
        print(f"  {time.monotonic() - began:.1f} s", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
