"""Large arguments and results: MB/s."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import hosts
from .pairs import Case, Row, Samples

SIZE = 10_000_000
WORKERS = 2

_result = b""


def take(argument: bytes) -> int:
    """Return the size of the argument."""
    return len(argument)


def give(size: int) -> bytes:
    """Return a result of this size, made once: making it is not what is measured."""
    global _result
    if len(_result) != size:
        _result = b"x" * size
    return _result


def _arguments(pool: Any) -> None:
    pool.apply(take, (give(SIZE),))


def _results(pool: Any) -> None:
    pool.apply(give, (SIZE,))


def _rate(work: Callable[[Any], None]) -> Callable[[str, bool], Samples]:
    def measure(variant: str, quick: bool) -> Samples:
        rates = []
        with hosts.make(variant, WORKERS) as pool:
            for _ in range(4):
                work(pool)
            for _ in range(5 if quick else 30):
                began = time.perf_counter()
                work(pool)
                rates.append(SIZE / 1e6 / (time.perf_counter() - began))
        return {"rate": rates}

    return measure


def _row(title: str) -> tuple[Row, ...]:
    return (Row("rate", title, "MB/s", "ratio", "≥ 1.5", "≥ 1.0, aim 3", 1.5, more=True),)


CASES = (
    Case("arguments", _rate(_arguments), _row("Pool: 10 MB arguments")),
    Case("results", _rate(_results), _row("Pool: 10 MB results")),
)
