"""SIGINTs at random moments into a loop that submits.

Run as ``python -m tests.interrupts --host pool --count 10000``.

Another process sends each signal, some microseconds after it was asked for it,
so that it comes anywhere in the submission. What the handler does changes from
one signal to the next: it raises KeyboardInterrupt, raises a `TimeoutError` as
alarms do, or calls the pool and returns. After every few hundred, every task
that was accepted must have its own right answer, and now and then the pool ends
and another one is made. Prints one line, and exits with 0 if all was well.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import poolwarden

#: Seconds for the answers of one batch, and for one pool to end.
BOUND = 60.0
#: Signals between two looks at the answers, and between two pools.
BATCH, POOL = 250, 2000

_KILLER = """
import os, random, sys, time, signal
chance = random.Random(int(sys.argv[2]))
parent, most = int(sys.argv[1]), float(sys.argv[3])
while sys.stdin.buffer.read(1):
    end = time.perf_counter() + chance.random() * most
    while time.perf_counter() < end:
        pass
    os.kill(parent, signal.SIGINT)
"""


class AlarmError(TimeoutError):
    """What an alarm's handler raises; a kind of OSError, as users' are."""


class Slow:
    """An argument whose pickling runs code of the user's."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        for _ in range(20):
            pass
        return Slow, (self.number,)


def square(value: Any) -> int:
    number: int = value.number if isinstance(value, Slow) else value
    return number * number


#: Whether the hosts are tried as they are, to compare.
bare = False


def guard(pool: Any, timeout: float | None) -> Any:
    return pool if bare else poolwarden.guard(pool, timeout=timeout)


@dataclass
class Host:
    """How one host is used: `submit` gives a handle, `result` waits for it, `end` ends the pool."""

    make: Callable[[str, float | None], Any]
    submit: Callable[[Any, int], Any]
    result: Callable[[Any, int], bool]
    endings: list[Callable[[Any], None]]
    from_handler: list[Callable[[Any], None]] = field(default_factory=list)
    most: float = 400e-6


def _pool_submit(pool: Any, number: int) -> Any:
    kind = number % 8
    if kind == 5:
        return "list", pool.map_async(square, range(number, number + 3), chunksize=2)
    if kind == 6:
        return "one", pool.apply_async(square, (Slow(number),))
    if kind == 7:
        return "iter", pool.imap_unordered(square, [number])
    return "one", pool.apply_async(square, (number,))


def _pool_result(handle: Any, number: int) -> bool:
    kind, result = handle
    if kind == "list":
        return bool(result.get(BOUND) == [n * n for n in range(number, number + 3)])
    if kind == "iter":
        return bool(result.next(BOUND) == number * number)
    return bool(result.get(BOUND) == number * number)


def _close_and_join(pool: Any) -> None:
    pool.close()
    pool.join()


def _executor_submit(pool: Any, number: int) -> Any:
    return pool.submit(square, Slow(number) if number % 8 == 6 else number)


def _future_result(handle: Any, number: int) -> bool:
    return bool(handle.result(BOUND) == number * number)


def _make_loky(start: str, timeout: float | None) -> Any:
    from loky import ProcessPoolExecutor as Loky
    from loky.backend.context import get_context

    return guard(Loky(2, context=get_context(start)), timeout)


def _make_joblib(start: str, timeout: float | None) -> Any:
    # Before the first signal: nobody can go on with half a module.
    import joblib

    joblib.Parallel(n_jobs=2)(joblib.delayed(square)(n) for n in range(2))
    return {"inner": start} if timeout is None else {"inner": start, "timeout": timeout}


def _joblib_submit(options: Any, number: int) -> Any:
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky") if bare else parallel_config("poolwarden", **options):
        # A new one each time: one that was interrupted says that it is running still, as the bare one does.
        return Parallel(n_jobs=2)(delayed(square)(n) for n in range(number, number + 4))


def _joblib_end(parallel: Any) -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


HOSTS = {
    "pool": Host(
        lambda start, timeout: guard(multiprocessing.get_context(start).Pool(2), timeout),
        _pool_submit,
        _pool_result,
        [_close_and_join, lambda pool: pool.terminate(), lambda pool: pool.__exit__(None, None, None)],
        [lambda pool: pool.apply_async(square, (3,)), lambda pool: pool.map_async(square, range(3))],
    ),
    "executor": Host(
        lambda start, timeout: guard(ProcessPoolExecutor(2, multiprocessing.get_context(start)), timeout),
        _executor_submit,
        _future_result,
        [lambda pool: pool.shutdown(), lambda pool: pool.shutdown(wait=True, cancel_futures=True)],
    ),
    "loky": Host(_make_loky, _executor_submit, _future_result, [lambda pool: pool.shutdown(wait=True)]),
    "joblib": Host(
        _make_joblib,
        _joblib_submit,
        lambda handle, number: bool(handle == [n * n for n in range(number, number + 4)]),
        [_joblib_end],
        most=20e-3,
    ),
}


class Storm:
    """The signals, and what they have interrupted.

    Attributes
    ----------
    hits : int
        Signals that were handled.
    armed : bool
        Whether the handler does anything.
    """

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.hits = 0
        self.armed = False
        self.pool: Any = None
        self._kinds = itertools.cycle([KeyboardInterrupt, AlarmError, *host.from_handler])
        command = [sys.executable, "-c", _KILLER, str(os.getpid()), str(seed), str(host.most)]
        self._killer = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        signal.signal(signal.SIGINT, self._handle)

    def ask(self) -> None:
        """Have one signal sent soon."""
        assert self._killer.stdin is not None
        self._killer.stdin.write(b".")
        self._killer.stdin.flush()

    def _handle(self, number: int, frame: object) -> None:
        self.hits += 1
        if not self.armed:
            return
        kind: Any = next(self._kinds)
        if isinstance(kind, type):
            self.armed = False
            raise kind
        self.armed = False
        kind(self.pool)

    def end(self) -> None:
        """End who sends them."""
        assert self._killer.stdin is not None
        self._killer.stdin.close()
        self._killer.wait(BOUND)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _submit_until_hit(storm: Storm, numbers: Any, accepted: list[tuple[int, Any]]) -> None:
    hits = storm.hits
    storm.ask()
    with contextlib.suppress(KeyboardInterrupt, AlarmError):
        _submit_while(storm, hits, numbers, accepted)
    storm.armed = False


def _submit_while(storm: Storm, hits: int, numbers: Any, accepted: list[tuple[int, Any]]) -> None:
    # In a function of its own: the jump back of a loop is in no `try` block of its function.
    storm.armed = True
    while storm.hits == hits:
        number = next(numbers)
        handle = storm.host.submit(storm.pool, number)
        accepted.append((number, handle))


def run(host: Host, start: str, timeout: float | None, count: int, seed: int) -> dict[str, int]:
    """Send `count` signals; return how many tasks were accepted and answered, or raise."""
    storm, numbers = Storm(host, seed), itertools.count(1)
    endings, answered, pools = itertools.cycle(host.endings), 0, 0
    ends_in: list[float] = []
    while storm.hits < count:
        faulthandler.dump_traceback_later(BOUND, exit=True)
        storm.pool, pools = host.make(start, timeout), pools + 1
        until = min(count, storm.hits + POOL)
        while storm.hits < until:
            accepted: list[tuple[int, Any]] = []
            upto = min(until, storm.hits + BATCH)
            while storm.hits < upto:
                _submit_until_hit(storm, numbers, accepted)
            for number, handle in accepted:
                assert host.result(handle, number), f"a wrong answer for {number}"
            answered += len(accepted)
            faulthandler.dump_traceback_later(BOUND, exit=True)
        assert host.result(host.submit(storm.pool, 7), 7)
        started = time.monotonic()
        next(endings)(storm.pool)
        ends_in.append(time.monotonic() - started)
        storm.pool = None
        gc.collect()
    storm.end()
    faulthandler.cancel_dump_traceback_later()
    longest = int(max(ends_in) * 1000)
    return {"signals": storm.hits, "answered": answered, "pools": pools, "ms the longest end": longest}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", choices=HOSTS, default="pool")
    parser.add_argument("--start", default=None, help="start method; for joblib the inner backend")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--timeout", type=float, default=None, help="set as the pool's timeout")
    parser.add_argument("--bare", action="store_true", help="leave the pool unguarded, to compare")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    global bare
    bare = args.bare
    start = args.start or ("fork" if args.host in ("pool", "executor") else "loky")
    started = time.monotonic()
    found = run(HOSTS[args.host], start, args.timeout, args.count, args.seed)
    said = ", ".join(f"{value} {name}" for name, value in found.items())
    how = f"{'bare ' * bare}{args.host} {start} timeout={args.timeout} seed={args.seed}"
    print(f"{how}: {said}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
