"""joblib's own subclasses of ``multiprocessing.Pool``, which share large arrays with their workers.

They pickle with reducers of their own, which put an array into a file that
the other side maps. Everything else is the pool's.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Final

from ...policy import Policy
from ...worker.payload import Dumper
from ...worker.picklers import make_pickler
from .multiprocessing import MultiprocessingPool

_pool: Final[Any] = importlib.import_module("joblib.pool")


class MemmappingPool(MultiprocessingPool):
    """Guards one ``joblib.pool.PicklingPool``, such as a ``MemmappingPool``."""

    name: ClassVar[str] = "joblib's Pool"
    pickler_name: ClassVar[str] = "joblib.pool:CustomizablePickler"

    def __init__(self, policy: Policy, workers: list[Any], pool: Any) -> None:
        super().__init__(policy, workers, pool)
        self.dumper = Dumper(make_pickler(_pool.CustomizablePickler, pool._forward_reducers))
        self.guard.memory.reducers = self.dumper.dumps(pool._backward_reducers)

    @classmethod
    def guards(cls, pool: object) -> bool:
        """Return whether `pool` pickles with joblib's reducers."""
        return isinstance(pool, _pool.PicklingPool)
