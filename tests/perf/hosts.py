"""The pools that are compared. Another host or a peer is one more function here."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

#: Seconds of the timeouts of `armed`: far more than any of its tasks runs.
FAR = 600.0


def bare(workers: int, start: str, **policy: Any) -> Any:
    """Return a `multiprocessing.Pool` as it is."""
    return multiprocessing.get_context(start).Pool(workers)


def guarded(workers: int, start: str, **policy: Any) -> Any:
    """Return a guarded `multiprocessing.Pool`."""
    from poolwarden import guard

    return guard(bare(workers, start), **policy)


def armed(workers: int, start: str, **policy: Any) -> Any:
    """Return a guarded pool whose tasks have a timeout."""
    return guarded(workers, start, timeout=FAR, **policy)


VARIANTS: dict[str, Callable[..., Any]] = {"bare": bare, "guarded": guarded, "armed": armed}


def make(variant: str, workers: int, start: str = "fork", **policy: Any) -> Any:
    """Return a new pool of this variant; `policy` is for the guarded ones."""
    return VARIANTS[variant](workers, start, **policy)
