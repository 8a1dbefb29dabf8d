"""Real processes for tests: short-lived, every wait bounded, gone at the end.

They are forked, so that a test may give them any function with all that it
closes over. What other start methods change is the adapters' to test.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from poolwarden.core.pool_memory import PoolMemory
from tests.contract.waiting import DEADLINE

FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


@contextmanager
def running(
    target: Callable[..., Any],
    *args: Any,
    memory: PoolMemory | None = None,
    later: PoolMemory | None = None,
) -> Iterator[Any]:
    """Give a process that runs `target`; it is killed and reaped at the end.

    With `memory` it is started as a worker of the pool that has this memory, with
    `later` as a worker of one that is guarded afterwards.
    """

    def run() -> None:
        # The test runner's own, which would print the stacks of crashes that are meant.
        faulthandler.disable()
        target(*args)

    process = FORK.Process(target=run)
    if memory is not None:
        memory.prepare(process)
    if later is not None:
        later.adopt(process)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(DEADLINE)
        process.close()


def answer_of(target: Callable[..., Any], *args: Any, **memories: PoolMemory) -> Any:
    """Return what `target` returns in a process of its own; fail when it raises or dies.

    The memories are those of `running`.
    """
    reader, writer = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            answer = (True, target(*args))
        except BaseException:
            answer = (False, traceback.format_exc())
        writer.send(answer)

    with reader, writer, running(run, **memories) as process:
        writer.close()
        assert reader.poll(DEADLINE), f"no answer within {DEADLINE:g} s"
        try:
            ok, value = reader.recv()
        except EOFError:
            process.join(DEADLINE)
            raise AssertionError(f"the process ended with {process.exitcode} and gave no answer") from None
    assert ok, value
    return value


def exit_code_of(target: Callable[..., Any], *args: Any, **memories: PoolMemory) -> int | None:
    """Return how a process ends that runs `target`. The memories are those of `running`."""
    with running(target, *args, **memories) as process:
        process.join(DEADLINE)
        return process.exitcode


def wait_for_ever() -> None:
    """Sleep until a signal ends this process."""
    while True:
        signal.pause()
