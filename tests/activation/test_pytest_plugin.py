"""The pytest plugin, in real runs of pytest whose tests lose real workers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.activation.probes import ROOT

LOSES = """\
import multiprocessing
import poolwarden.testing as faults

def make():
    return multiprocessing.get_context("fork").Pool(2)

def test_loses():
    with make() as pool:
        pool.map(faults.only_for(1, faults.kill_self(), abs), range(3))

def test_catches():
    with make() as pool:
        try:
            pool.apply(faults.die(3))
        except poolwarden.WorkerLostError:
            pass

def test_is_fine():
    with make() as pool:
        assert pool.map(abs, range(3)) == [0, 1, 2]

import poolwarden
"""

MARKED = """\
import multiprocessing
import pytest
import poolwarden
import poolwarden.testing as faults

@pytest.fixture
def pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        yield pool

@pytest.mark.poolwarden(timeout=0.3)
def test_hangs(pool):
    with pytest.raises(poolwarden.TaskTimeoutError):
        pool.apply(faults.hang())

@pytest.mark.poolwarden(retries=1)
def test_is_tried_again(pool, tmp_path):
    assert pool.apply(faults.once(tmp_path / "once", faults.die(1), abs), (-3,)) == 3

@pytest.mark.poolwarden(retires=1)
def test_is_marked_wrongly(pool):
    pass

def test_is_not_marked(pool):
    assert hasattr(pool, "_poolwarden") == EXPECTED
"""

XDIST = pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="pytest-xdist is not installed")

OWN = """\
import os
import multiprocessing
import pytest
import poolwarden
import poolwarden.testing as faults

def make():
    return multiprocessing.get_context("fork").Pool(2)

def test_clock_is_set(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 4e9)
    with poolwarden.guard(make(), timeout=30) as pool, pytest.raises(poolwarden.WorkerLostError):
        pool.apply(faults.die(3))

@pytest.mark.poolwarden(retries=1)
def test_is_marked(tmp_path):
    assert os.environ["POOLWARDEN"].startswith("timeout=7.0,")
    with make() as pool:
        assert pool.apply(faults.once(tmp_path / "once", faults.die(1), abs), (-3,)) == 3

def test_is_as_before():
    assert "POOLWARDEN" not in os.environ
    with make() as pool:
        assert pool._poolwarden is not None
        with pytest.raises(poolwarden.WorkerLostError):
            pool.apply(faults.die(4))
"""

STACKED = """\
import os
import pytest

pytestmark = pytest.mark.poolwarden(timeout=9.0, retries=2)

@pytest.mark.poolwarden(retries=1)
def test_closest_goes_first():
    assert "timeout=9.0," in os.environ["POOLWARDEN"]
    assert "retries=1," in os.environ["POOLWARDEN"]

@pytest.mark.poolwarden(retries=-1)
def test_value():
    pass

@pytest.mark.poolwarden(30)
def test_place():
    pass
"""

UNUSED = """\
import sys
def test_nothing():
    ours = [name for name in sys.modules if name.startswith(("poolwarden", "wrapt"))]
    assert set(ours) <= {"poolwarden", "poolwarden.on_import", "poolwarden.activation",
                         "poolwarden.activation.pytest_plugin", "poolwarden_startup"}, ours
"""


def run(folder: Path, text: str, *options: str, **more: str) -> Any:
    """Run pytest on a file of tests, with the plugin loaded as an installed one is."""
    (folder / "test_it.py").write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("POOLW", "PYTEST"))}
    installed = "poolwarden" in {point.name for point in importlib.metadata.entry_points(group="pytest11")}
    plugin = [] if installed else ["-p", "poolwarden.activation.pytest_plugin"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *plugin, *options],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT / "src"), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


def summary(ran: Any) -> list[str]:
    """Return the lines of poolwarden's section."""
    _, _, rest = ran.stdout.partition("poolwarden: lost workers and tasks")
    return [line for line in rest.partition("\n===")[0].splitlines()[1:] if line.startswith("test_it.py::")]


@pytest.mark.parametrize("way", ["option", "setting", "variable"])
def test_a_lost_worker_fails_its_test_and_the_run_goes_on(tmp_path: Path, way: str) -> None:
    options = {"option": ("--poolwarden",), "setting": ("-o", "poolwarden=true")}.get(way, ())
    more = {"POOLWARDEN": "1"} if way == "variable" else {}

    ran = run(tmp_path, LOSES, *options, **more)

    assert "1 failed, 2 passed" in ran.stdout, ran.stdout
    assert "WorkerLostError: The worker running poolwarden.testing.only_for" in ran.stdout
    assert "poolwarden: on, no timeout" in ran.stdout
    first, second = summary(ran)
    assert first.startswith("test_it.py::test_loses: The worker running")
    assert first.endswith("(SIGKILL)")
    assert second.startswith("test_it.py::test_catches: ")
    assert second.endswith("(exit code 3)")


@XDIST
def test_losses_in_processes_of_xdist_are_told_too(tmp_path: Path) -> None:
    ran = run(tmp_path, LOSES, "--poolwarden", "-n", "2")

    assert "1 failed, 2 passed" in ran.stdout, ran.stdout
    assert sorted(line.partition(": ")[0] for line in summary(ran)) == [
        "test_it.py::test_catches",
        "test_it.py::test_loses",
    ]


@pytest.mark.parametrize("everywhere", [True, False])
def test_the_marker_guards_its_test_with_its_options(tmp_path: Path, everywhere: bool) -> None:
    text = MARKED.replace("EXPECTED", str(everywhere))

    ran = run(tmp_path, text, *(["--poolwarden"] if everywhere else []))

    assert "3 passed" in ran.stdout, ran.stdout
    assert "1 error" in ran.stdout
    assert "the marker poolwarden is not valid: it takes timeout=, grace=, retries=" in ran.stdout


@XDIST
def test_losses_of_marked_tests_in_processes_of_xdist_are_told_too(tmp_path: Path) -> None:
    text = LOSES.replace("def test_loses", "import pytest\n@pytest.mark.poolwarden\ndef test_loses")

    ran = run(tmp_path, text, "-n", "1", "-k", "test_loses")

    assert "1 failed" in ran.stdout, ran.stdout
    assert len(summary(ran)) == 1, ran.stdout


def test_what_the_suite_installed_is_there_again_after_a_marked_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import poolwarden; poolwarden.install(timeout=7.0)")

    ran = run(tmp_path, OWN)

    assert "3 passed" in ran.stdout, ran.stdout
    # The first pool has a policy of its own and the clock is set: it is told all the same, in its place.
    assert [line.partition(": ")[0].partition("::")[2] for line in summary(ran)] == [
        "test_clock_is_set",
        "test_is_marked",
        "test_is_as_before",
    ], ran.stdout


def test_markers_add_up_and_bad_ones_say_what_is_valid(tmp_path: Path) -> None:
    ran = run(tmp_path, STACKED)

    assert "1 passed, 2 errors" in ran.stdout, ran.stdout
    assert "is not valid: retries must be a whole number, 0 or more, not -1." in ran.stdout
    options = "timeout=, grace=, retries=, losses=, startup_timeout=, cancel_running="
    assert f"is not valid: it takes {options} only." in ran.stdout
    assert "During handling" not in ran.stdout


@pytest.mark.parametrize(
    ("asked", "variable", "header"),
    [
        (["-o", "poolwarden=true"], "0", None),
        (["--poolwarden"], "0", "poolwarden: on, no timeout"),
        (["-o", "poolwarden_timeout=5"], "timeout=9", "poolwarden: on, timeout=9.0"),
        (["-o", "poolwarden_timeout=5"], "retries=1", "poolwarden: on, timeout=5.0, retries=1"),
    ],
)
def test_the_option_goes_before_the_variable_and_that_before_settings(
    tmp_path: Path, asked: list[str], variable: str, header: str | None
) -> None:
    ran = run(tmp_path, "def test_nothing(): pass", *asked, POOLWARDEN=variable)

    assert "1 passed" in ran.stdout, ran.stdout
    assert [line for line in ran.stdout.splitlines() if line.startswith("poolwarden: ")] == (
        [] if header is None else [header]
    )


PYTEST_TIMEOUT = pytest.mark.skipif(
    importlib.util.find_spec("pytest_timeout") is None, reason="pytest-timeout is not installed"
)


@PYTEST_TIMEOUT
def test_it_fails_a_test_before_pytest_timeout_does(tmp_path: Path) -> None:
    text = MARKED.partition("@pytest.mark.poolwarden(retries")[0].replace("(timeout=0.3)", "()")

    ran = run(tmp_path, text, "--poolwarden", "-o", "poolwarden_timeout=0.3", "--timeout=40")

    assert "1 passed" in ran.stdout, ran.stdout


@PYTEST_TIMEOUT
def test_what_was_running_is_told_when_pytest_timeout_ends_a_test(tmp_path: Path) -> None:
    text = LOSES.partition("def test_catches")[0].replace("faults.kill_self()", "faults.hang()")

    ran = run(tmp_path, text, "--poolwarden", "--timeout=3")

    assert "1 failed" in ran.stdout, ran.stdout
    (line,) = summary(ran)
    assert "hang(), abs) (item 1, submitted at " in line
    assert "had been running for" in line
    assert "def told" not in ran.stdout


def test_the_setting_for_the_timeout(tmp_path: Path) -> None:
    text = MARKED.partition("@pytest.mark.poolwarden(retries")[0].replace("(timeout=0.3)", "()")

    ran = run(tmp_path, text, "--poolwarden", "-o", "poolwarden_timeout=0.3")
    assert "1 passed" in ran.stdout, ran.stdout
    assert "poolwarden: on, timeout=0.3" in ran.stdout

    wrong = run(tmp_path, text, "--poolwarden", "-o", "poolwarden_timeout=soon")
    assert wrong.returncode == pytest.ExitCode.USAGE_ERROR
    assert "poolwarden_timeout: timeout must be None or a finite number of seconds above 0" in wrong.stderr


def test_off_it_imports_nothing_and_says_nothing(tmp_path: Path) -> None:
    ran = run(tmp_path, UNUSED, "-W", "error")

    assert "1 passed" in ran.stdout, ran.stdout
    assert "poolwarden" not in ran.stdout.partition("collected")[0].partition("plugins:")[0]


def test_it_warns_of_nothing(tmp_path: Path) -> None:
    ran = run(tmp_path, LOSES, "-W", "error", POOLWARDEN="1")
    assert "1 failed, 2 passed" in ran.stdout, ran.stdout
    assert "warning" not in ran.stdout.lower().replace("warning  poolwarden:", "")
