"""What pickles and unpickles as a host does, found by the host's name for it.

Used in both processes, so that either reads what the other has written. How
picklers are used, and where what they write goes, is `payload`'s.
"""

from __future__ import annotations

import importlib
import pickle
import sys

from .orphan import process_package
from .payload import Dumper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def pickling_of(name: str, reducers: Any) -> tuple[Dumper, Callable[[bytes], Any]]:
    """Return what pickles and what unpickles as a host does.

    Parameters
    ----------
    name : str
        ``module:name`` of the host's pickler class or ``dump`` function. A class
        may have its own ``loads``, as in `multiprocess`, where dill does both.
    reducers : dict or None
        The queue's own reducers.
    """
    module, _, name = name.partition(":")
    host = getattr(importlib.import_module(module), name)
    return Dumper(make_pickler(host, reducers)), getattr(host, "loads", pickle.loads)


def guessed_name() -> str:
    """Return the name of the host's pickler in a worker that nobody could tell it."""
    for loky in ("loky", "joblib.externals.loky"):
        if f"{loky}.process_executor" in sys.modules:
            return f"{loky}.backend.reduction:dump"
    return f"{process_package()}.reduction:ForkingPickler"


def make_pickler(host: Any, reducers: Any) -> Any:
    """Return what makes picklers: a host's class, or its function or class with `reducers`."""
    if isinstance(host, type):
        return (lambda file: host(file, reducers)) if reducers else host
    return ByFunction(host, reducers)


class ByFunction:
    """Makes picklers from a function ``dump(obj, file, reducers=None)``, as loky has one.

    Parameters
    ----------
    dump : callable
        The host's function; what pickler it uses may change at any time.
    reducers : dict or None
        The queue's own reducers.
    """

    def __init__(self, dump: Any, reducers: Any) -> None:
        self._dump = dump
        self._reducers = reducers

    def __call__(self, file: Any) -> _BoundDump:
        return _BoundDump(self._dump, file, self._reducers)


class _BoundDump:
    __slots__ = ("_dump", "_file", "_reducers")

    def __init__(self, dump: Any, file: Any, reducers: Any) -> None:
        self._dump, self._file, self._reducers = dump, file, reducers

    def dump(self, obj: Any) -> None:
        self._dump(obj, self._file, reducers=self._reducers)
