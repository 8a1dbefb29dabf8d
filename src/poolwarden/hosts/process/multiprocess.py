"""`multiprocess.Process`, of the copy of `multiprocessing` that pickles with dill.

Beside the pool and not with it: a program may have imported this half only,
and the other must not be imported by us while it is.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from .adapter import ProcessAdapter


class MultiprocessProcess(ProcessAdapter):
    """Guards one `multiprocess.Process`."""

    name: ClassVar[str] = "multiprocess.Process"
    module: ClassVar[Any] = importlib.import_module("multiprocess.process")
    util: ClassVar[Any] = importlib.import_module("multiprocess.util")
