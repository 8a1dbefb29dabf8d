"""joblib: tiny tasks in batches, and large arrays that workers map."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import hosts
from .pairs import Case, Row, Samples

WORKERS = 2
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


def _tiny(tasks: int) -> Callable[[str, bool], Samples]:
    """Return what measures tasks that do nothing, in batches that joblib makes as large as it likes."""

    def measure(variant: str, quick: bool) -> Samples:
        from joblib import delayed

        parallel, count = _parallel(variant), tasks // 10 if quick else tasks
        rates = []
        for round_ in range(3 if quick else 6):
            began = time.perf_counter()
            parallel(delayed(nothing)(n) for n in range(count))
            if round_:
                rates.append(count / (time.perf_counter() - began))
        return {"rate": rates}

    return measure


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


def _tiny_case(name: str, tasks: int) -> Case:
    title = f"joblib: {tasks} no-ops, batches of its own size"
    return Case(
        name, _tiny(tasks), (Row("rate", title, "tasks/s", "ratio", "", "≥ 0.98", 0.98, more=True),), rounds=3
    )


_ARRAYS = Row("rate", "joblib: 10 MB arrays, mapped", "MB/s", "ratio", "", "≥ 1.0", 1.0, more=True)

CASES = (
    *((_tiny_case("joblib", 10_000), _tiny_case("joblib-many", 100_000)) if hosts.is_there("joblib") else ()),
    *((Case("joblib-arrays", arrays, (_ARRAYS,), rounds=3),) if hosts.is_there("joblib", "numpy") else ()),
)
