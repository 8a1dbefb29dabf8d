"""The user's thread is interrupted while it is inside of us.

What is tried: a handler that raises (KeyboardInterrupt, an alarm's TimeoutError,
which is an OSError), or that calls the pool (submits and waits, ends it), at
every point of a submission at which CPython runs handlers, with and without
``timeout=``; and SIGINTs at random moments into a loop that submits. Siblings:
each way to submit; arguments whose pickling runs Python; results half made by
the host; a pool closed, joined, terminated behind such a loop.

What must hold: what the handler raises comes out of the call that it came upon
and is no task's error; every accepted task has its right answer, and the pool
is usable and ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys

import pytest

from poolwarden import guard
from tests.attack.stepping import At, every_point
from tests.contract.tasks import square
from tests.contract.waiting import DEADLINE, ENDING, within


class AlarmError(TimeoutError):
    """As an alarm's handler raises it."""


def ring():
    raise AlarmError


SUBMISSIONS = {
    "apply_async": lambda pool: pool.apply_async(square, (3,)),
    "by-the-task-thread": lambda pool: pool.apply_async(square, ([3],)),
    "map_async": lambda pool: pool.map_async(square, range(3)),
    "imap": lambda pool: pool.imap(square, range(3)),
}


def _close(pool):
    pool.close()
    pool.join()


@contextlib.contextmanager
def pool_with(timeout):
    pool = guard(multiprocessing.get_context("fork").Pool(2), timeout=timeout)
    pool.apply(square, (1,))
    yield pool
    within(ENDING, pool.terminate)
    pool.join()


with_and_without_timeout = pytest.mark.parametrize("timeout", [None, 30.0])


@with_and_without_timeout
@pytest.mark.parametrize("ending", ["close", "terminate"])
@pytest.mark.parametrize("way", SUBMISSIONS)
def test_what_a_handler_raises_in_a_submission_comes_out_of_it(way, ending, timeout):
    points = 0
    with pool_with(timeout) as pool:
        for place, outcome in every_point(lambda: SUBMISSIONS[way](pool), ring, step=3):
            assert isinstance(outcome, AlarmError), f"{outcome!r} at {place}"
            assert pool.apply_async(square, (4,)).get(DEADLINE) == 16, place
            points += 1
        assert points > 5
        within(ENDING, _close if ending == "close" else type(pool).terminate, pool)


@with_and_without_timeout
def test_a_handler_may_submit_and_wait_in_the_middle_of_a_submission(timeout):
    points = 0
    with pool_with(timeout) as pool:

        def submit():
            assert pool.apply_async(square, (5,)).get(DEADLINE) == 25
            assert pool.map_async(square, range(3)).get(DEADLINE) == [0, 1, 4]

        for place, handle in every_point(lambda: pool.apply_async(square, (3,)), submit, step=2):
            assert handle.get(DEADLINE) == 9, place
            points += 1
    assert points > 10


@pytest.mark.parametrize("point", range(0, 95, 14))
@with_and_without_timeout
def test_a_handler_may_terminate_the_pool_in_the_middle_of_a_submission(point, timeout):
    pool = guard(multiprocessing.get_context("fork").Pool(1), timeout=timeout)
    pool.apply(square, (1,))

    def call():
        return pool.apply_async(square, (3,))

    At(1 << 30, ring, ("poolwarden/",)).call(call)
    at = At(point, pool.terminate, ("poolwarden/",))
    while not at.place:
        at.call(call)
    pool.join()


@pytest.mark.parametrize("arguments", [["pool"], ["pool", "--timeout", "30"]], ids=" ".join)
def test_signals_at_random_moments(arguments):
    command = [sys.executable, "-m", "tests.interrupts", "--count", "200", "--host", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert found.returncode == 0, found.stderr
