"""`multiprocessing.Process`."""

from __future__ import annotations

from multiprocessing import process, util
from typing import Any, ClassVar

from .adapter import ProcessAdapter


class MultiprocessingProcess(ProcessAdapter):
    """Guards one `multiprocessing.Process`."""

    name: ClassVar[str] = "Process"
    module: ClassVar[Any] = process
    util: ClassVar[Any] = util
