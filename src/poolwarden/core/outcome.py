"""From the bytes that a worker sent to what the host's caller gets.

The parent's half of `worker.envelope`. Runs in the host's result thread, so it
never raises: what cannot be unpickled becomes a `PayloadError` of that task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..worker import envelope, payload
from ..worker.frames import read_frames
from . import verdicts

if TYPE_CHECKING:
    from ..adapters.base import PoolAdapter
    from .tickets import Ticket


def decode(
    ticket: Ticket, kind: int, data: bytes, store: payload.Store, adapter: PoolAdapter
) -> tuple[bool, Any]:
    """Return ``(True, result)`` or ``(False, exception)``.

    Parameters
    ----------
    ticket : Ticket
        The task that was answered.
    kind, data : int, bytes
        As `worker.envelope.run` returned them.
    store : Store
        Holds large outcomes.
    adapter : PoolAdapter
        Makes the exceptions that this host's users know.
    """
    where = kind & (payload.FILE | payload.SLOT)
    kind -= where
    name = f"r{ticket.number}"
    try:
        if kind == envelope.PARTS:
            return True, _chunk_results(ticket, store)
        content = store.load(where, data, name)
    except BaseException as error:
        return False, _unreadable(ticket, error)
    if kind == envelope.VALUE:
        return True, content
    return False, _exception(ticket, kind, content, adapter)


def _exception(ticket: Ticket, kind: int, content: Any, adapter: PoolAdapter) -> BaseException:
    if kind == envelope.ERROR:
        type_name, text, pickled = content
        try:
            return adapter.with_remote_traceback(adapter.loads(pickled), text)
        except BaseException:
            return verdicts.payload(ticket.info(), "result", type_name, text)
    if kind == envelope.UNSENDABLE:
        why, what, text, pickled = content
        try:
            cause = adapter.loads(pickled) if pickled else None
        except BaseException:
            cause = None
        return adapter.unsendable(why, what, text, cause)
    if kind == envelope.UNREADABLE:
        return verdicts.payload(ticket.info(), "call", content[0], content[1])
    return verdicts.task_exit(ticket.info(), content[0], content[1])


def _chunk_results(ticket: Ticket, store: payload.Store) -> list[Any]:
    """Return the results of a chunk whose items were kept one by one."""
    frames = read_frames(store, f"p{ticket.number}")
    return [
        ticket.holes[item] if item in ticket.holes else store.loads(frames[item])
        for item in range(ticket.count)
    ]


def _unreadable(ticket: Ticket, error: BaseException) -> BaseException:
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    # An unpickler of dill, which is in these frames, keeps what it has read where
    # no collector looks: if that is this error, and all would live for ever.
    error.__traceback__ = None
    return verdicts.payload(ticket.info(), "result", type(error).__name__, text)
