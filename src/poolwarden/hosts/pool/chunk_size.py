"""The size of chunks in `map` and its like, where the caller gives none.

The pool divides by the number of workers that it has at the moment. With the
last one lost and the next not yet started that is 0, and a `map` right after a
loss raised ZeroDivisionError. Runs in the thread that submits.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any


def hook(pool: Any) -> None:
    """Have `pool` divide by the number of workers that it is meant to have."""
    pool._map_async = functools.partial(_map_async, weakref.ref(pool))


def unhook(pool: Any) -> None:
    """Leave `pool` its own way."""
    del pool._map_async


def _map_async(
    ref: weakref.ref[Any],
    func: Any,
    iterable: Any,
    mapper: Any,
    chunksize: int | None = None,
    *callbacks: Any,
) -> Any:
    pool: Any = ref()
    if chunksize is None:
        pool._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        chunksize = -(-len(iterable) // (pool._processes * 4))
    return type(pool)._map_async(pool, func, iterable, mapper, chunksize, *callbacks)
