"""How a host's values are pickled, and how its users are told of errors.

All that the table of tasks and the reading of outcomes ask of a host.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from ..worker.payload import Dumper


class Codec(Protocol):
    """Pickles as a host does, and makes the exceptions that its users know.

    Attributes
    ----------
    pickler_name : str
        ``module:name`` of the host's pickler class, or of its ``dump``
        function; used here and in the workers, so that whatever the host can
        pickle still can be. If it has ``loads``, that unpickles.
    dumper : Dumper
        Pickles calls.
    loads : callable
        Unpickles what workers have pickled.
    """

    pickler_name: ClassVar[str]
    dumper: Dumper
    loads: Callable[[bytes], Any]

    @abstractmethod
    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        """Return a task's exception with the worker's traceback as its cause, as the host shows it."""

    def as_host_error(self, error: BaseException) -> BaseException:
        """Return an error of ours as one that this host's users catch already."""
        return error

    @abstractmethod
    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        """Return what this host raises for a result or exception that cannot be pickled.

        Parameters
        ----------
        why, what : str
            ``repr`` of the pickling error and of the object.
        text : str
            The task's own traceback when it is its exception that cannot be
            pickled, else empty.
        cause : BaseException or None
            The pickling error, if that can be pickled.
        """
