"""A program that uses scikit-learn, which uses joblib, and neither knows of poolwarden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("joblib")
pytest.importorskip("sklearn")

SCRIPT = Path(__file__).with_name("grid_search.py")


def output_of(options: str | None, *arguments: object) -> list[str]:
    """Return the lines that the program prints, run bare or with these options of `install`."""
    program = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    if options is not None:
        program = f"import poolwarden; poolwarden.install({options}); {program}"
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_candidate_that_kills_its_worker_is_named_and_the_next_search_works() -> None:
    lines = output_of("")

    # Two folds for each candidate: the third one's are tasks 4 and 5.
    assert "_fit_and_score (item 4, submitted at" in lines[0] or "_fit_and_score (item 5," in lines[0]
    assert lines[0].startswith("WorkerLostError")
    assert lines[-1] == "scores 0.5 0.5"


def test_a_loss_that_does_not_come_again_is_survived_with_retries(tmp_path: Path) -> None:
    assert output_of("retries=1", tmp_path / "done") == ["scores 0.5 0.5 0.5 0.5"]


def test_without_the_guard_nobody_is_named() -> None:
    lines = output_of(None)

    assert lines[0].startswith("TerminatedWorkerError")
    assert not any("_fit_and_score" in line for line in lines)


def test_its_own_delayed_leaves_a_function_its_limits() -> None:
    program = (
        "import time\n"
        "from sklearn.utils.parallel import Parallel, delayed\n"
        "from poolwarden import TaskTimeoutError, install, limits\n"
        "install(losses='return')\n"
        "tasks = [delayed(limits(time.sleep, timeout=0.3))(30), delayed(abs)(-1)]\n"
        "late, result = Parallel(n_jobs=2)(tasks)\n"
        "print(isinstance(late, TaskTimeoutError), late.task.function, result)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "True time.sleep 1\n", ran.stderr
