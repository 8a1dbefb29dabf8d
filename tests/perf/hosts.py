"""The pools that are compared. Another host or a peer is one more function here."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

#: Seconds of the timeouts of `armed`: far more than any of its tasks runs.
FAR = 600.0


def pool(workers: int, start: str) -> Any:
    """Return a `multiprocessing.Pool` as it is."""
    return multiprocessing.get_context(start).Pool(workers)


def executor(workers: int, start: str) -> Any:
    """Return a `ProcessPoolExecutor` as it is."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context(start))


def loky(workers: int, start: str) -> Any:
    """Return an executor of loky as it is; it starts its workers in its own way."""
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(workers)


HOSTS: dict[str, Callable[[int, str], Any]] = {"pool": pool, "executor": executor, "loky": loky}


def make(variant: str, workers: int, start: str = "fork", *, host: str = "pool", **policy: Any) -> Any:
    """Return a new pool, ``"bare"``, ``"guarded"`` or ``"armed"``: that is with a timeout for its tasks.

    `policy` is for the guarded ones.
    """
    made = HOSTS[host](workers, start)
    if variant == "bare":
        return made
    from poolwarden import guard

    if variant == "armed":
        policy = {"timeout": FAR, **policy}
    return guard(made, **policy)


def is_there(*modules: str) -> bool:
    """Return whether these can be imported."""
    return all(importlib.util.find_spec(module) is not None for module in modules)
