"""One case of the demo: a fault, on one host, bare or guarded.

Covers what goes wrong and what a caller of the pool sees of it. Does not judge
that, and does not bound it: a bare case may stand still for ever. So each case
runs in an interpreter of its own, which `poolwarden.cli.demo` starts, watches
and stops. Tells its progress on stdout, one JSON object a line.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from poolwarden import testing
from poolwarden.hosts import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORKERS: Final = 2
OTHERS: Final = 8  # tasks sent right behind the faulty one

RIGHT: Final = "right result"  # outcomes of a call that raises nothing
WRONG: Final = "wrong result"


@dataclass(frozen=True)
class Case:
    """One way to lose a task, and what the guard promises about it.

    Attributes
    ----------
    title : str
        For people, at most 21 characters.
    task : callable
        What is called in a worker, with one argument.
    promise : str
        How the call ends in a guarded pool: the name of the error's class, or
        `RIGHT`.
    signal : str or None
        Name of the signal that the error has to give in ``exit.signal``.
    before : callable or None
        Called in the pool's process just before the task is sent.
    options : dict
        Of `poolwarden.guard`.
    """

    title: str
    task: Callable[[int], Any]
    promise: str
    signal: str | None = None
    before: Callable[[], None] | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Host(Protocol):
    """What the demo needs to know of a library with process pools.

    A further host is one class like `StandardPool` and one line in `_SHOWN`.
    """

    def is_installed(self) -> bool:
        """Return whether it can be shown here."""

    def start_method(self) -> str:
        """Return the start method that `open` uses."""

    def open(self) -> Any:
        """Return a new pool of `WORKERS` workers."""

    def submit(self, pool: Any, task: Callable[[int], Any], argument: int) -> Callable[[], Any]:
        """Send a task; return what waits for its result, without a bound."""

    def close(self, pool: Any) -> None:
        """Shut the pool down and wait for its workers, without a bound."""


class StandardPool:
    """`multiprocessing.Pool`."""

    def is_installed(self) -> bool:
        return True

    def start_method(self) -> str:
        methods = multiprocessing.get_all_start_methods()
        return "fork" if "fork" in methods else multiprocessing.get_context().get_start_method()

    def open(self) -> Any:
        return multiprocessing.get_context(self.start_method()).Pool(WORKERS)

    def submit(self, pool: Any, task: Callable[[int], Any], argument: int) -> Callable[[], Any]:
        wait: Callable[[], Any] = pool.apply_async(task, (argument,)).get
        return wait

    def close(self, pool: Any) -> None:
        pool.close()
        pool.join()


class StandardExecutor(StandardPool):
    """`concurrent.futures.ProcessPoolExecutor`."""

    def open(self) -> Any:
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(WORKERS, multiprocessing.get_context(self.start_method()))

    def submit(self, pool: Any, task: Callable[[int], Any], argument: int) -> Callable[[], Any]:
        from concurrent.futures import Future
        from concurrent.futures.process import BrokenProcessPool

        future: Future[Any] = Future()
        try:
            future = pool.submit(task, argument)
        except BrokenProcessPool as error:
            future.set_exception(error)
        return future.result

    def close(self, pool: Any) -> None:
        pool.shutdown()


class Loky(StandardExecutor):
    """`loky.ProcessPoolExecutor`."""

    def is_installed(self) -> bool:
        return importlib.util.find_spec("loky") is not None

    def start_method(self) -> str:
        return "loky"

    def open(self) -> Any:
        return importlib.import_module("loky").ProcessPoolExecutor(WORKERS)


#: By the host's module, in the registry of hosts.
_SHOWN: Final[dict[str, Host]] = {
    "multiprocessing.pool": StandardPool(),
    "concurrent.futures.process": StandardExecutor(),
    "loky.process_executor": Loky(),
}
HOSTS: Final = {host.kind: _SHOWN[host.module] for host in registry.HOSTS if host.module in _SHOWN}


def square(number: int) -> int:
    return number * number


class TwoArguments(Exception):  # noqa: N818 - named after what is wrong with it
    """An exception as many are written: pickles, and fails to unpickle.

    Unpickling calls the class with what `Exception.__init__` was given: one
    argument, and the class wants two.
    """

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"error {code}: {detail}")


def raise_two_arguments(_: int) -> None:
    raise TwoArguments(7, "disk full")


def kill_idle_workers() -> None:
    """Kill every worker of a pool that has nothing to do.

    All of them, because one of them waits with the queue's lock in its hand,
    and which one cannot be seen from outside.
    """
    # The results are in, but the workers need a moment to get from sending them to waiting for the next task,
    # and only then is the lock held.
    time.sleep(0.2)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)  # loky's have no kill()


CASES: Final = {
    "killed": Case("worker killed in task", testing.kill_self(9), "WorkerLostError", signal="SIGKILL"),
    "idle": Case("idle workers killed", square, RIGHT, before=kill_idle_workers),
    "endless": Case(
        "task that never ends", testing.hang(), "TaskTimeoutError", signal="SIGKILL", options={"timeout": 0.5}
    ),
    "segfault": Case("segfault in task", testing.segfault(), "WorkerLostError", signal="SIGSEGV"),
    "unpicklable": Case("unpicklable exception", raise_two_arguments, "PayloadError"),
}


def perform(case: Case, host: Host, guarded: bool, tell: Callable[..., None]) -> None:
    """Run one case to its end, if it has one, and tell what a caller sees.

    Parameters
    ----------
    case, host, guarded
        What to run, on what, and whether the pool is guarded first.
    tell : callable
        Called with keyword arguments, in this order: nothing, when the fault
        is about to happen; ``outcome``, ``seconds`` (from the submission),
        ``signal`` and ``text`` (the error as Python prints it) of the faulty
        task; ``others``, how many of the tasks sent behind it gave the right
        result; ``works``, whether the pool then did new tasks and shut down.
    """
    pool = host.open()
    if guarded:
        from poolwarden import guard

        pool = guard(pool, **case.options)
    if not all_right(host, pool):
        raise RuntimeError("the new pool does not work")
    tell()
    if case.before is not None:
        case.before()
    begin = time.perf_counter()
    wait = host.submit(pool, case.task, 3)
    others = [host.submit(pool, square, number) for number in range(OTHERS)]
    outcome, error = attempt(wait, 9)
    tell(
        outcome=outcome,
        seconds=time.perf_counter() - begin,
        signal=getattr(getattr(error, "exit", None), "signal", None),
        text="".join(traceback.format_exception_only(error)) if error is not None else "",
    )
    tell(others=sum(attempt(wait, number * number)[0] == RIGHT for number, wait in enumerate(others)))
    works = all_right(host, pool)
    host.close(pool)
    tell(works=works)


def attempt(wait: Callable[[], Any], expected: Any) -> tuple[str, Exception | None]:
    """Return how a call ended: an outcome as in `Case.promise`, and the error."""
    try:
        result = wait()
    except Exception as error:
        return type(error).__name__, error
    return RIGHT if result == expected else WRONG, None


def all_right(host: Host, pool: Any) -> bool:
    """Return whether the pool gives the right results for `OTHERS` new tasks."""
    waits = [host.submit(pool, square, number) for number in range(OTHERS)]
    return all(attempt(wait, number * number)[0] == RIGHT for number, wait in enumerate(waits))


def end_with_the_demo() -> None:
    """Kill this process group, workers included, when the demo itself is gone.

    The demo holds the other end of stdin and never writes. Without this, a
    demo that is killed would leave behind what hangs. Runs in a thread.
    """
    os.read(0, 1)
    if os.getpgrp() == os.getpid():  # else it was started by hand, in the group of somebody's script
        os.killpg(0, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Run the case that `arguments` name: key, host, ``bare`` or ``guarded``."""
    key, host, mode = arguments

    def tell(**news: Any) -> None:
        print(json.dumps(news), flush=True)

    import resource  # not on every system, and this module is imported where it only prints

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a segfault on purpose is not worth a file
    threading.Thread(target=end_with_the_demo, daemon=True).start()
    perform(CASES[key], HOSTS[host], mode == "guarded", tell)


if __name__ == "__main__":
    main(sys.argv[1:])
