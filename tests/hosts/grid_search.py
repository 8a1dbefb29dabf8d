"""A program as users write it: a grid search of scikit-learn, one of whose candidates kills its worker.

``grid_search.py [PATH]``: with a path it does so only once, and leaves the
file as a sign. Knows nothing of poolwarden.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV


class Fragile(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Learns nothing; with a depth of 3 it does not live to tell."""

    def __init__(self, depth: int = 1, path: str | None = None) -> None:
        self.depth = depth
        self.path = path

    def fit(self, X: Any, y: Any) -> Fragile:  # noqa: N803 - scikit-learn's name
        if self.depth == 3 and not (self.path and os.path.exists(self.path)):
            if self.path:
                with open(self.path, "w"):
                    pass
            os.kill(os.getpid(), signal.SIGKILL)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        return np.full(len(X), self.classes_[0])


def search(estimator: Fragile, depths: list[int]) -> None:
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2  # noqa: N806
    found = GridSearchCV(estimator, {"depth": depths}, cv=2, n_jobs=2).fit(X, y)
    print("scores", *found.cv_results_["mean_test_score"])


if __name__ == "__main__":
    try:
        search(Fragile(path=sys.argv[1] if len(sys.argv) > 1 else None), [1, 2, 3, 4])
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        search(Fragile(), [1, 2])
