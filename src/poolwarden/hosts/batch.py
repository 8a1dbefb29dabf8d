"""A batch of tasks that a library above the hosts submits as one call.

joblib is such a library: it packs many small tasks into one call of a host.
Handed to a guarded host as a `Batch`, each of them is a task of its own for
limits, losses, retries and errors. Runs in the thread that submits, and in the
one of the host that issues the ticket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..worker import envelope
from ..worker.payload import itself

if TYPE_CHECKING:
    from ..policy import Policy


class Batch:
    """What is submitted in the place of the library's call; calling it calls that.

    Parameters
    ----------
    call : callable
        Has its tasks in ``items``, as ``(function, args, kwds)``, and a
        length; when it is called it runs them in order and returns their
        results, or raises what one of them raised.
    base : int
        Index of its first task in the user's call.
    policy : Policy
        For its tasks, whatever the host's pool has.
    site : tuple or None
        File and line of the user's call.

    Attributes
    ----------
    function : callable or tuple
        Of its tasks, as `Tickets.issue` takes it.
    flags : int
        Of its ticket.
    """

    __slots__ = ("base", "call", "function", "policy", "site")

    flags: Final = envelope.CHUNK | envelope.BATCH

    def __init__(self, call: Any, base: int, policy: Policy, site: tuple[Any, ...] | None) -> None:
        self.call = call
        self.base = base
        self.policy = policy
        self.site = site
        items = call.items
        first = self.function = items[0][0]
        for item in items:
            if item[0] is not first:
                self.function = tuple(item[0] for item in items)
                break

    @property
    def first_function(self) -> Any:
        """The function of its first task."""
        return self.function[0] if type(self.function) is tuple else self.function

    def __call__(self) -> Any:
        return self.call()

    def __reduce__(self) -> Any:
        # A worker of a pool that is not guarded needs nothing of us.
        return itself, (self.call,)
