"""A system that lacks something a guard uses: macOS, Windows, or a Linux that is locked down.

Siblings: each thing that is missing by itself, and all of them together; in the parent and in its workers;
at import, in `guard` of a pool, an executor and a process, in `install`, `POOLWARDEN=1` and ``doctor``. What
a guard cannot do without is refused by name, and the pool is the bare one's; without the rest, losses and
timeouts are told all the same, and a parent that is killed leaves nobody.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.without import ABSENT, NEEDED, SPARED
from tests.contract.waiting import DEADLINE, all_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")

PROGRAM = str(Path(__file__).with_name("without.py"))
RUN = (sys.executable, "-m", "poolwarden", "run", PROGRAM)


def run(*arguments: str, command: tuple[str, ...] = (sys.executable, PROGRAM)) -> tuple[str, str]:
    """Return what the program says on stdout and stderr; it has to end well."""
    ran = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=2 * DEADLINE, check=False
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout, ran.stderr


@pytest.mark.parametrize(
    ("host", "method", "names"),
    [
        *(("Pool" if n % 2 else "Executor", "fork", [name]) for n, name in enumerate(SPARED)),
        ("Executor", "fork", [*SPARED]),
        *(
            pytest.param(
                "Pool",
                method,
                [*SPARED],
                # Among the README's limits.
                marks=pytest.mark.xfail(reason="hangs once all idle workers were killed", strict=False),
            )
            for method in ("fork", "spawn")
        ),
        ("Executor", "forkserver", [*SPARED]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else value,
)
def test_a_guard_does_without(host: str, method: str, names: list[str]) -> None:
    said, _ = run(f"live:{host}", method, *names)
    assert said.split("\n")[:3] == ["lost SIGKILL", "timed out", "ended"]


@pytest.mark.parametrize("names", [["async"], [*SPARED]], ids="+".join)
def test_no_worker_outlives_a_killed_parent(names: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, PROGRAM, "wait:Pool", "fork", *names], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pids = [int(word) for word in program.stdout.readline().split()]
        os.kill(program.pid, signal.SIGKILL)
        all_gone(pids)


@pytest.mark.parametrize("names", [[name] for name in NEEDED] + [[*NEEDED, *SPARED]], ids="+".join)
@pytest.mark.parametrize(("host", "method"), [("Pool", "fork"), ("Executor", "spawn")])
def test_a_guard_is_refused_by_name_and_the_pool_is_as_bare(host: str, method: str, names: list[str]) -> None:
    said, complained = run(f"refuse:{host}", method, *names)

    lines = said.splitlines()
    refusals = [line for line in lines if line.startswith("refused: no pool can be guarded on this system")]
    assert len(refusals) == 3
    for name in set(names).intersection(NEEDED):
        assert all(name in line for line in refusals)
    assert [line.partition(" ")[2] for line in lines[3:]] == ["[0, 1, 4, 9] False"] * 2
    assert complained == ""


@pytest.mark.parametrize(("host", "method"), [("Pool", "spawn"), ("Executor", "fork")])
def test_the_variable_stands_aside_with_one_line(host: str, method: str) -> None:
    said, complained = run(f"start:{host}", method, "PIPE_BUF", command=RUN)

    assert [line.partition(" ")[2] for line in said.splitlines()] == ["[0, 1, 4, 9] False"] * 2
    assert len(complained.splitlines()) == 1
    assert "PIPE_BUF" in complained


def test_everything_can_be_imported() -> None:
    assert run("load:", "-", *SPARED, *NEEDED, *ABSENT) == ("imported\n", "")


def test_the_doctor_says_so() -> None:
    said, _ = run("examine:", "-", "poll", "pidfds")

    assert said.startswith(
        "poolwarden doctor: no pool can be guarded on this system: it lacks waiting on pipes"
    )
    assert "status 1" in said
