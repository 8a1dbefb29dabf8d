"""Who looks on: what a guarded pool tells of its workers and events, and to whom.

Without an observer there is nothing to tell, and nobody asks. The report is one;
it subscribes when a way into the guard is imported (`activation.reporting`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..records import Event


class Running(NamedTuple):
    """What one worker runs at the moment.

    Attributes
    ----------
    pid : int
    key : tuple
        The same as long as the worker is busy with the same.
    started : float
        `clock.now` of its start.
    function : str
        Name of the function.
    item : int or None
        Its index.
    """

    pid: int
    key: tuple[int, ...]
    started: float
    function: str
    item: int | None


#: Returns what a pool's workers run now, None once it has ended.
Look = Callable[[], "list[Running] | None"]


class PoolObserver(Protocol):
    """Is told what happens in one pool, by any thread; must neither raise nor wait."""

    def worker_started(self, pid: int) -> None:
        """A worker is there."""

    def worker_ended(self, pid: int, *, killed: bool) -> None:
        """A worker has ended, and was answered for; `killed` by the guard."""

    def event(self, event: Event) -> None:
        """An event has been told."""

    def saw(self, running: Running) -> None:
        """A worker that has ended ran this."""

    def close(self, calls: int) -> None:
        """The pool has ended; it was given so many tasks and chunks."""


#: Called for each pool that is guarded, with its name, its host's name and what looks at its workers.
subscribers: Final[list[Callable[[str, str, Look], PoolObserver | None]]] = []


def observers_of(name: str, host: str, look: Look) -> tuple[PoolObserver, ...]:
    """Return who wants to be told of a new pool.

    Parameters
    ----------
    name, host : str
        Of the pool.
    look : callable
        Returns what its workers run now, None once it has ended; observers may
        call it in a thread of theirs until then.
    """
    found = [subscribe(name, host, look) for subscribe in subscribers]
    return tuple(observer for observer in found if observer is not None)
