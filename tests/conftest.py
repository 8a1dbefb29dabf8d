"""Fixtures and checks for every test of this folder.

Two things happen around each test without being asked for: it is ended when it
takes longer than its bound (`pytest.mark.bound`, seconds), with the stacks of
all threads; and what it left behind makes it fail (`tests.contract.leaks`).
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import traceback
import zlib
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.contract", "tests.hosts")

from tests.contract import leaks  # noqa: E402 - after the line above, or its asserts stay terse

#: Seconds for each of set-up, call and tear-down of one test. No time is measured with it.
BOUND = 60.0

#: Seconds after which a test that outlived its first alarm is interrupted again.
AGAIN = 5.0

#: Variations of one contract test that a run without ``--full`` makes.
VARIATIONS = 3

FAILED = pytest.StashKey[bool]()

MARKERS = (
    "bound(seconds): how long one test may take before it is ended",
    "every_start_method: run under each start method the host has, instead of the first alone",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a script; the programs that are sent Ctrl-C would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        leaks.adopt_orphans()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help=f"run every variation of the contract tests; a plain run makes {VARIATIONS} of each",
    )


@pytest.hookimpl(trylast=True)  # behind -k and the like
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep some variations (ways of submitting, start methods, faults) of each contract test.

    All of them take three quarters of an hour. A class whose pools are slow to start
    says with `variations` that it makes fewer. Which are kept depends on the test's name
    alone, so that different tests meet different ones, and every run the same.
    """
    if config.getoption("--full"):
        return
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if getattr(getattr(item, "cls", None), "binding", None) is not None:
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    dropped: list[pytest.Item] = []
    for name, variations in tests.items():
        chance = random.Random(zlib.crc32(name.encode()))
        most = getattr(variations[0].cls, "variations", VARIATIONS)  # type: ignore[attr-defined]
        kept = chance.sample(variations, min(most, len(variations)))
        dropped += [item for item in variations if item not in kept]
    config.hook.pytest_deselected(items=dropped)
    gone = set(dropped)
    items[:] = [item for item in items if item not in gone]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let ``-k IdleWorkerDies`` find the tests that a host inherits from that theme."""
    function = getattr(item, "function", None)
    item.extra_keyword_matches.add(getattr(function, "__qualname__", "").partition(".")[0])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fill in `start_method`, `way` and `blocking` from what the host's binding says it has."""
    binding = getattr(metafunc.cls, "binding", None)
    if binding is None:
        return
    if "start_method" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_start_method")
        methods = binding.start_methods if every else binding.start_methods[:1]
        metafunc.parametrize("start_method", methods)
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", binding.ways.values(), ids=binding.ways.keys())
    if "blocking" in metafunc.fixturenames:
        metafunc.parametrize("blocking", binding.blocking)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    report: pytest.TestReport = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def nothing_left(warm: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves processes, threads, descriptors or files behind.

    A test that has failed is cleaned up after and not blamed a second time: its
    traceback alone keeps its pools.
    """
    if sys.platform != "linux":
        yield
        return
    before = leaks.Snapshot.take()
    yield
    left = leaks.what_is_left(before)
    if left and FAILED not in request.node.stash:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def warm() -> None:
    """Start what stays for the whole process, so that no test is blamed for it.

    That is multiprocessing's resource tracker and fork server (a pipe each),
    and poolwarden's watchdog with its wake-up. After this, the allowance of
    descriptors is none at all.
    """
    import multiprocessing

    try:
        from poolwarden import guard
    except ImportError:
        return
    for method in multiprocessing.get_all_start_methods():
        with guard(multiprocessing.get_context(method).Pool(1)) as pool:
            pool.apply(int)


def _bounded(item: pytest.Item) -> Iterator[None]:
    """Interrupt the main thread when this phase of a test takes too long."""
    marker = item.get_closest_marker("bound")
    seconds = marker.args[0] if marker else BOUND

    def ring(_signum: int, _frame: FrameType | None) -> None:
        report = [f"{item.nodeid} took longer than {seconds:g} s", *_all_stacks()]
        report += ["killed:", *leaks.kill_descendants()] if sys.platform == "linux" else []
        pytest.fail("\n".join(report), pytrace=False)

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    return (yield from _bounded(item))


def _all_stacks() -> list[str]:
    """Return the innermost frames of every thread of this process, as text."""
    frames: dict[int, Any] = sys._current_frames()
    return [
        f"-- {thread.name}\n{''.join(traceback.format_stack(frames[thread.ident], 10))}"
        for thread in threading.enumerate()
        if thread.ident in frames
    ]
