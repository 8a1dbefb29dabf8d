"""`multiprocess`, the copy of `multiprocessing` that pickles with dill: its ``Pool``.

`pathos` and Hugging Face's `datasets` use it. The code is the same; the classes,
the pickler and `TimeoutError` are its own.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Final

from ...errors import TaskTimeoutError, with_host_error
from .adapter import BasePool

_context: Final[Any] = importlib.import_module("multiprocess.context")


class MultiprocessPool(BasePool):
    """Guards one `multiprocess.pool.Pool`."""

    name: ClassVar[str] = "multiprocess.Pool"
    module: ClassVar[Any] = importlib.import_module("multiprocess.pool")
    pickler_name: ClassVar[str] = "multiprocess.reduction:ForkingPickler"

    def as_host_error(self, error: BaseException) -> BaseException:
        if isinstance(error, TaskTimeoutError):
            return with_host_error(error, _context.TimeoutError)
        return error
