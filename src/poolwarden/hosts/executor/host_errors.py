"""How an executor says what failed: the forms of its errors, and its signs of a failure.

Here they are `concurrent.futures`' own; an executor that has others overrides
them. What an error means for the guard is not decided here. Runs in the
manager thread.
"""

from __future__ import annotations

import pickle
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from ...errors import PayloadError, PoolWardenError, with_host_error

if TYPE_CHECKING:
    from ...core.guard import Guard


class ExecutorErrors:
    """Speaks, and understands, the errors of one executor.

    Parameters
    ----------
    module : module
        The host's, where its classes are.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def as_host_error(self, error: BaseException) -> BaseException:
        """As `Codec.as_host_error`."""
        # What cannot be unpickled breaks the bare executor. Of the other errors those that stand for what
        # breaks it are a BrokenProcessPool by themselves.
        if isinstance(error, PayloadError):
            return with_host_error(error, self.module.BrokenProcessPool)
        return error

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        """As `Codec.with_remote_traceback`."""
        error.__cause__ = self.module._RemoteTraceback(f'\n"""\n{text}"""')
        return error

    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        """As `Codec.unsendable`."""
        error = cause if cause is not None else pickle.PicklingError(why)
        return self.with_remote_traceback(error, text or why)

    def unpicklable(self, error: BaseException) -> BaseException:
        """Return what the host says of a call that cannot be pickled."""
        text = "".join(format_exception(type(error), error, error.__traceback__))
        # Its frames lead to the manager thread's, which hold the future that will hold the error: all
        # would live, with the executor's pipes, until a collection.
        error.__traceback__ = None
        return self.with_remote_traceback(error, text)

    def never_sent(self, error: PoolWardenError) -> BaseException:
        """Return the error of a call whose pickling exits as the host's callers expect it."""
        return self.as_host_error(error)

    def is_death(self, cause: Any, *args: Any) -> bool:
        """Return whether these arguments of ``terminate_broken`` tell of the death of a worker."""
        return cause is None

    def broken_arguments(self, args: tuple[Any, ...], guard: Guard) -> tuple[Any, ...]:
        """Return the arguments for the host's ``terminate_broken`` when it is the guard that gives up."""
        return args

    def undecodable(self, error: BaseException) -> Any:
        """Return what the host says of a result that cannot be unpickled."""
        return format_exception(type(error), error, error.__traceback__)

    def is_bad(self, result: Any) -> bool:
        """Return whether a worker reports something that breaks the executor."""
        return False

    def bad_cause(self, result: Any) -> Any:
        """Return what the host makes of such a report."""
        return None
