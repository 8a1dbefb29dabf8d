"""joblib: tiny tasks in batches, and large arrays that workers map."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

from .pairs import Case, Row, Samples

WORKERS = 2
TASKS = 100_000
#: Bytes of one array, and how many a call has.
SIZE, ARRAYS = 10_000_000, 8


def nothing(_: object = None) -> None:
    """Do nothing."""


def first_of(array: Any) -> float:
    """Return an element, so that only the way of the array to the worker is measured."""
    return float(array[0])


def _parallel(variant: str) -> Any:
    import joblib

    if variant == "guarded":
        import poolwarden  # noqa: F401 - makes the backend known

    return joblib.Parallel(WORKERS, backend={"bare": "loky", "guarded": "poolwarden"}[variant])


def tiny(variant: str, quick: bool) -> Samples:
    """Return tasks/s of tasks that do nothing, in batches that joblib makes as large as it likes."""
    from joblib import delayed

    parallel, count = _parallel(variant), TASKS // 10 if quick else TASKS
    rates = []
    for round_ in range(3 if quick else 6):
        began = time.perf_counter()
        parallel(delayed(nothing)(n) for n in range(count))
        if round_:
            rates.append(count / (time.perf_counter() - began))
    return {"rate": rates}


def arrays(variant: str, quick: bool) -> Samples:
    """Return MB/s of arrays that joblib puts into files for its workers to map."""
    import numpy
    from joblib import delayed

    parallel, rates = _parallel(variant), []
    for round_ in range(3 if quick else 12):
        # New ones each time: joblib does not write the same array twice.
        made = [numpy.full(SIZE // 8, float(round_ * ARRAYS + n)) for n in range(ARRAYS)]
        began = time.perf_counter()
        parallel(delayed(first_of)(array) for array in made)
        if round_:
            rates.append(ARRAYS * SIZE / 1e6 / (time.perf_counter() - began))
    return {"rate": rates}


def _is_there(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


_TINY = Row(
    "rate", "joblib: no-ops in batches of its own size", "tasks/s", "ratio", "", "≥ 0.98", 0.98, more=True
)
_ARRAYS = Row("rate", "joblib: 10 MB arrays, mapped", "MB/s", "ratio", "", "≥ 1.0", 1.0, more=True)

CASES = (
    *((Case("joblib", tiny, (_TINY,)),) if _is_there("joblib") else ()),
    *((Case("joblib-arrays", arrays, (_ARRAYS,)),) if _is_there("joblib", "numpy") else ()),
)
