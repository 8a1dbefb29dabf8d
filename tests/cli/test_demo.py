"""The demo on real processes, and its judgement on records made by hand."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from poolwarden.cli import demo
from poolwarden.cli.demo import Seen, observe
from poolwarden.cli.demo_case import CASES, HOSTS, OTHERS

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")

DEADLINE = 55.0  # s, below what conftest gives a test
POOL = "multiprocessing.Pool"


@pytest.fixture
def run_of_demo(tmp_path):
    """A demo that runs, and what gives the processes of it that are alive."""
    mark = f"MARK={uuid.uuid4()}"
    # A shell that starts things in the background may have left SIGINT ignored, and that is inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    name, value = mark.split("=")
    with open(tmp_path / "stdout", "w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "poolwarden", "demo"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, name: value, "TERM": "xterm"},
        )
        process.text = lambda: (tmp_path / "stdout").read_text()
        yield process, lambda: processes_with(mark)
        process.kill()
        process.wait(DEADLINE)
    signal.signal(signal.SIGINT, before)
    for pid in processes_with(mark):
        os.kill(pid, signal.SIGKILL)


def processes_with(mark: str) -> list[int]:
    """Return the pids of all processes that were started with `mark` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # ended since, or somebody else's
            continue
    return found


def wait_until(condition) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_every_case_hangs_bare_and_is_as_promised_guarded(run_of_demo):
    process, alive = run_of_demo
    status = process.wait(DEADLINE)
    text = process.text()
    lines = text.splitlines()

    assert status == 0, text
    for name, host in HOSTS.items():
        head = next(number for number, line in enumerate(lines) if line.startswith(name))
        if not host.is_installed():
            assert "not installed" in lines[head]
            continue
        for case, row in zip(CASES.values(), lines[head + 2 :], strict=False):
            title, bare, guarded, after = re.split(r"  +", row)
            assert title == case.title
            assert re.fullmatch(r"hung, stopped after \d+ s" + ("" if name == POOL else "|broken.*"), bare)
            assert re.fullmatch(case.promise + r", \d+ ms", guarded)
            assert after == "works"
    assert any("WorkerLostError: " in line for line in lines)
    assert "\033" not in text  # a file is no terminal
    assert alive() == []


@pytest.mark.parametrize(
    ("sig", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)], ids=str
)
def test_a_demo_that_is_stopped_leaves_no_process(run_of_demo, sig, status):
    process, alive = run_of_demo
    wait_until(lambda: len(alive()) > 2 * len(CASES))  # the interpreters of the bare cases and some workers

    process.send_signal(sig)

    assert process.wait(DEADLINE) == status
    wait_until(lambda: alive() == [])


def test_a_bare_case_that_hangs_is_stopped():
    seen = asyncio.run(observe("idle", POOL, "bare", 1.0))

    assert seen.started
    assert seen.outcome is None
    assert seen.stopped_after is not None
    assert seen.status == -signal.SIGKILL
    assert not seen.keeps(CASES["idle"])


def test_a_case_that_cannot_start_is_not_called_hung():
    seen = asyncio.run(observe("idle", "no such host", "bare", 1.0))

    assert seen.call() == "did not start"
    assert seen.pool() == "broken"
    assert "no such host" in seen.complaints


def good(case) -> Seen:
    return Seen(
        started=True,
        outcome=case.promise,
        seconds=0.002,
        signal=case.signal,
        text=f"{case.promise}: all about it\n",
        others=OTHERS,
        works=True,
        status=0,
    )


BREACHES = {
    "other outcome": {"outcome": "OSError"},
    "no outcome": {"outcome": None},
    "wrong cause": {"signal": "SIGTERM"},
    "another task lost": {"others": OTHERS - 1},
    "pool does not work": {"works": False},
    "hung at its end": {"stopped_after": 10.0},
    "interpreter crashed": {"status": -11},
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=list(BREACHES))
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_each_part_of_the_promise_counts(case, breach):
    assert good(case).keeps(case)
    assert not replace(good(case), **breach).keeps(case)


@pytest.mark.parametrize("broken", [None, *CASES])
def test_exit_status_says_whether_every_promise_was_kept(monkeypatch, broken):
    async def observed(key, host, mode, patience):
        seen = good(CASES[key])
        if mode == "bare":
            return replace(seen, outcome=None, works=False, stopped_after=3.0)
        breaks = key == broken and host == POOL
        return replace(seen, works=False, complaints="who did that") if breaks else seen

    monkeypatch.setattr(demo, "observe", observed)
    output = io.StringIO()

    status = demo.run(output)

    assert status == (0 if broken is None else 1)
    total = len(CASES) * sum(host.is_installed() for host in HOSTS.values())
    assert f"{total - status} of {total} guarded cases did what was promised" in output.getvalue()
    assert ("who did that" in output.getvalue()) == (broken is not None)


def test_the_table_fits_a_terminal(monkeypatch):
    async def observed(key, host, mode, patience):
        seen = replace(good(CASES[key]), seconds=0.999, text="")
        return replace(seen, outcome=None, stopped_after=3.0) if mode == "bare" else seen

    monkeypatch.setattr(demo, "observe", observed)
    output = io.StringIO()
    demo.run(output)

    assert max(map(len, output.getvalue().splitlines())) <= 80
