"""`multiprocessing.Pool`."""

from __future__ import annotations

# Not ``import multiprocessing.pool``: after `install` this runs while that is
# being imported, and the package does not have it as an attribute yet.
from multiprocessing import pool
from typing import Any, ClassVar

from .adapter import BasePool


class MultiprocessingPool(BasePool):
    """Guards one `multiprocessing.pool.Pool`, or an object of a subclass."""

    name: ClassVar[str] = "Pool"
    module: ClassVar[Any] = pool
