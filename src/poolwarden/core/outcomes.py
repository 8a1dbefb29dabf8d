"""From the bytes that a worker sent to what the host's caller gets.

The parent's half of `worker.envelope`. Runs in the host's result thread, so it
never raises: what cannot be unpickled becomes a `PayloadError` of that task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from ..errors import TaskTimeoutError, WorkerLostError
from ..plaintext import visible
from ..system.complaints import complain
from ..worker import envelope, payload
from . import error_texts
from .codec import Codec
from .printed import raised
from .ticket import Ticket

#: Errors that the option `losses` is for.
LOSSES: Final = (WorkerLostError, TaskTimeoutError)


class Payloads(Protocol):
    """Knows where large outcomes are."""

    def add_kept(self, ticket: Ticket, place: bytes) -> None:
        """Take over the results of a chunk's items that lie in its worker's ring."""

    def load(self, kind: int, data: bytes, number: int) -> Any:
        """Unpickle what an outcome holds; raises whatever that raises."""


def decode(
    ticket: Ticket, kind: int, data: bytes, payloads: Payloads, adapter: Codec
) -> tuple[bool, Any]:
    """Return ``(True, result)`` or ``(False, exception)``.

    Parameters
    ----------
    ticket : Ticket
        The task that was answered.
    kind, data : int, bytes
        As `worker.envelope.run` returned them.
    payloads : Payloads
        Knows where large outcomes are.
    adapter : Codec
        Makes the exceptions that this host's users know.
    """
    where = kind & (payload.MEMORY | payload.PIECES)
    try:
        if kind == envelope.PARTS:
            payloads.add_kept(ticket, data)
            return _chunk_results(ticket, adapter)
        content = payloads.load(where, data, ticket.number)
    except BaseException as error:
        return False, adapter.as_host_error(_unreadable(ticket, error))
    kind -= where
    if kind == envelope.VALUE:
        return True, content
    return False, _exception(ticket, kind, content, adapter)


def _exception(ticket: Ticket, kind: int, content: Any, adapter: Codec) -> BaseException:
    if kind == envelope.ERROR:
        type_name, text, pickled = content
        try:
            return adapter.with_remote_traceback(adapter.loads(pickled), text)
        except BaseException as error:
            said = visible(type(error).__name__)
            return adapter.as_host_error(
                error_texts.payload(ticket.info(), "result", type_name, text, unpickling=said)
            )
    if kind == envelope.UNSENDABLE:
        why, what, text, pickled = content
        try:
            cause = adapter.loads(pickled) if pickled else None
        except BaseException:
            cause = None
        return adapter.unsendable(why, what, text, cause)
    if kind == envelope.UNREADABLE:
        return adapter.as_host_error(error_texts.payload(ticket.info(), "call", content[0], content[1]))
    # No error of the host's, on purpose: bare executors raise the exit itself in the caller, which ends
    # the caller's program in silence.
    return error_texts.task_exit(ticket.info(), content[0], content[1])


def _chunk_results(ticket: Ticket, adapter: Codec) -> tuple[bool, Any]:
    """Return the results of a chunk whose items were kept one by one."""
    results = []
    for item in range(ticket.count):
        if item not in ticket.holes:
            results.append(adapter.loads(ticket.kept[item]))
            continue
        ok, value = in_its_place(ticket.policy.losses, ticket.holes[item])
        if not ok:
            return False, value
        results.append(value)
    return True, results


def in_its_place(losses: str | Callable[[Any], Any], error: BaseException) -> tuple[bool, Any]:
    """Return what the place of a failed item in the result holds, or what the caller is told instead.

    Parameters
    ----------
    losses : str or callable
        As in `Policy`.
    error : BaseException
        What the item ended in.

    Returns
    -------
    tuple
        ``(True, value)``, or ``(False, exception)``: the error, or what the
        user's callable has raised, caused by the error.
    """
    if losses == "raise" or not isinstance(error, LOSSES):
        return False, error
    if not callable(losses):
        return True, error
    trace = error.__traceback__
    try:
        return True, losses(error)
    except Exception as why:
        if why is error:
            # As if it had not been asked.
            return False, error.with_traceback(trace)
        why.__cause__ = why.__cause__ or error
        return False, why.with_traceback(why.__traceback__ and why.__traceback__.tb_next)
    except BaseException as why:
        # An exit would end the thread that delivers results, or the caller's program.
        complain("poolwarden: the callable given as losses exited; the loss is raised", why)
        return False, error


def _unreadable(ticket: Ticket, error: BaseException) -> BaseException:
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    # An unpickler of dill, which is in these frames, keeps what it has read where
    # no collector looks: if that is this error, and all would live for ever.
    error.__traceback__ = None
    return error_texts.payload(ticket.info(), "result", None, text, unpickling=raised(text))
