"""Time that stands still, runs ahead or jumps, while pools are used.

Siblings: freezegun (frozen, ticking, leaping at each look; it replaces the functions
of `time` in every loaded module, ours too, and gives the real time to whoever was
called by `threading` a few frames ago); time-machine (replaces what is behind them, in
C); a test that replaces `time.monotonic` or makes `time.sleep` return at once; the pool
made before or inside of that, its workers forked with it, spawned without it, replaced
in the middle of it; what our modules call and that counts time itself
(`multiprocessing.connection.wait`, ``Condition.wait_for``); a clock of the system that
is set (nothing but an event's time may depend on that, and the age of a folder, which is
compared with a stamp of the same file system); a parent and workers that stand still
together (SIGSTOP, a suspended machine).
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys

import pytest

from tests.attack.conftest import skip_without
from tests.attack.frozen_program import TOOLS
from tests.contract.waiting import DEADLINE

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="measures with it")

HOSTS = {
    "pool": ("tests.hosts.bind_pool:BindPool", "fork"),
    "pool-spawn": ("tests.hosts.bind_pool:BindPool", "spawn"),
    "executor": ("tests.hosts.bind_executor:BindExecutor", "fork"),
    "executor-spawn": ("tests.hosts.bind_executor:BindElsewhere", "spawn"),
    "loky": ("tests.hosts.bind_loky:BindLoky", "loky"),
    "joblib": ("tests.hosts.bind_joblib:BindJoblib", "loky"),
}


def run(tool: str, when: str, host: str) -> None:
    module = tool.partition("-")[0]
    if module != "replaced":
        skip_without(module)
    if host in ("loky", "joblib"):
        skip_without(host)
    command = [sys.executable, "-W", "ignore", "-m", "tests.attack.frozen_program", tool, when, *HOSTS[host]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE)
    assert done.returncode == 0, done.stderr


#: Those of a plain run; with ``--full`` every tool meets every host, both ways.
SOME = (
    ("freezegun", "frozen", "pool"),
    ("freezegun", "frozen", "executor-spawn"),
    ("freezegun", "later", "loky"),
    ("time_machine", "frozen", "pool-spawn"),
    ("replaced", "later", "executor"),
    ("freezegun-leaps", "later", "pool"),
)
ALL = tuple(itertools.product(TOOLS, ("frozen", "later"), HOSTS))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tool" in metafunc.fixturenames:
        metafunc.parametrize(("tool", "when", "host"), ALL if metafunc.config.getoption("--full") else SOME)


def test_bounds_and_deadlines_hold(tool: str, when: str, host: str) -> None:
    run(tool, when, host)
