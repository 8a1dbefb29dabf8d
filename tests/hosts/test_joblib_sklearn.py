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


#: What kills its worker in the first two of three folds, and what is asked of it.
ROWS = """
import ctypes, os, sys, warnings
import joblib, numpy as np, poolwarden
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import (GridSearchCV, cross_val_predict, cross_val_score, cross_validate,
                                     learning_curve, validation_curve)

class Row(ClassifierMixin, BaseEstimator):
    def __init__(self, depth=3):
        self.depth = depth

    def fit(self, X, y):
        if 0 in X and self.depth == 3:
            ctypes.string_at(0)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])

X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
given = dict(X=X, y=y, cv=3, n_jobs=2)
grid = dict(param_grid={"depth": [1, 3]}, cv=3, n_jobs=2)
CALLS = {
    "grid": lambda: GridSearchCV(Row(), **grid).fit(X, y).cv_results_["mean_test_score"],
    "metrics": lambda: GridSearchCV(Row(), scoring=["accuracy", "f1"], refit="f1", return_train_score=True,
                                    **grid).fit(X, y).cv_results_["mean_train_f1"],
    "zero": lambda: GridSearchCV(Row(), error_score=0, **grid).fit(X, y).cv_results_["split1_test_score"],
    "raise": lambda: GridSearchCV(Row(), error_score="raise", **grid).fit(X, y),
    "scores": lambda: cross_val_score(Row(), **given),
    "validate": lambda: cross_validate(Row(), return_estimator=True, **given)["estimator"],
    "curve": lambda: learning_curve(Row(), train_sizes=[1.0], **given)[2],
    "values": lambda: validation_curve(Row(), param_name="depth", param_range=[1, 3], **given)[1][1],
    "predict": lambda: cross_val_predict(Row(), **given),
}

def run():
    for name in sys.argv[2:]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                said = " ".join(str(CALLS[name]()).replace("[ ", "[").split())
            except Exception as error:
                said = f"{type(error).__name__} {error.stack is not None}"
        text = "".join(str(one.message) for one in told if one.category.__name__ == "FitFailedWarning")
        print(f"{name}: {said}", "WorkerLostError" in text and "in fit" in text, sep="; ", flush=True)

if __name__ == "__main__":
    if sys.argv[1] == "install":
        poolwarden.install(losses="return")
        run()
    else:
        with joblib.parallel_config("poolwarden", inner=sys.argv[1], losses="return"):
            run()
"""


#: What each prints: what is found, and whether the warning holds our error and the worker's stack.
PRINTED = {
    "grid": "[0.5 nan]; True",
    "metrics": "[0. nan]; True",
    "zero": "[0.42857143 0. ]; True",
    "raise": "WorkerLostError True; False",
    "scores": "[0.57142857 nan nan]; True",
    "validate": "[Row(), Row(), Row()]; True",
    "curve": "[[0.57142857 nan nan]]; True",
    "values": "[0.57142857 nan nan]; False",
    "predict": "WorkerLostError True; False",
}


@pytest.mark.parametrize(
    ("way", "calls"), [("install", ["grid"]), ("loky", ["raise", "scores"]), ("multiprocessing", [*PRINTED])]
)
def test_a_fit_that_kills_its_worker_is_a_failed_fit(way: str, calls: list[str], tmp_path: Path) -> None:
    program = tmp_path / "rows.py"
    program.write_text(ROWS)

    ran = subprocess.run(
        [sys.executable, str(program), way, *calls], capture_output=True, text=True, timeout=100
    )

    assert ran.stdout.splitlines() == [f"{name}: {PRINTED[name]}" for name in calls], ran.stderr


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
