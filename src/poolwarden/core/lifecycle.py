"""The state of one guarded pool, from its guard to its end.

========== ============ ========== =================================================
state      submissions  deaths     leaves by
========== ============ ========== =================================================
GUARDED    guarded      handled    `begin_unguard`, `break_`, `end`
UNGUARDING the host's   handled    `take_back` (to GUARDED), `break_`, `end`
BROKEN     refused      ignored    `end`
ENDING     the host's   ignored    `release`
RELEASED   the host's   not seen   (never)
========== ============ ========== =================================================

Each transition is refused from any other state: it changes nothing and returns
False. The state is read from facts, of which each is stored in one step and most
are never taken back, so that no lock is needed that an interrupted thread, or a
fork, could leave taken: `end` and `disown` may come from a signal handler, in the
middle of any other.
"""

from __future__ import annotations

import enum
import threading
from typing import Final

from ..records import WorkerExit


class State(enum.Enum):
    """Where a pool stands; see the table above."""

    GUARDED = enum.auto()
    UNGUARDING = enum.auto()
    BROKEN = enum.auto()
    ENDING = enum.auto()
    RELEASED = enum.auto()


class Lifecycle:
    """One pool's state.

    Attributes
    ----------
    broken : str or None
        Why the pool can run nothing any more; stays when it ends.
    broken_by : tuple of (WorkerExit or None, str or None)
        How the worker ended for which it was given up, and what that has said.
    nobody_began : bool
        Whether it is certain that no open task of a broken pool has begun.
    closed : bool
        True once the pool ends; deaths mean nothing then.
    disowned : bool
        True in a process that was forked since: the guard is the parent's.
    unguarding : bool
        True from `begin_unguard` on, in a broken pool as well: its open tasks are answered still.
    births : threading.RLock
        Held while the host starts workers and while the pool is repaired, so
        that no worker is half born when the world stops.
    leaving : threading.RLock
        Held while it is decided whether the last task of an unguarded pool was answered.
    """

    def __init__(self) -> None:
        self.broken: str | None = None
        self.broken_by: tuple[WorkerExit | None, str | None] = (None, None)
        self.nobody_began = False
        self.closed = self.disowned = False
        self.unguarding = False
        self.births: Final = threading.RLock()
        self.leaving: Final = threading.RLock()
        # Taken once, and never given back: of several threads that end a pool one releases it.
        self._released: Final = threading.Lock()

    @property
    def state(self) -> State:
        """Return the state."""
        if self._released.locked():
            return State.RELEASED
        if self.closed:
            return State.ENDING
        if self.broken is not None:
            return State.BROKEN
        return State.UNGUARDING if self.unguarding else State.GUARDED

    def begin_unguard(self) -> bool:
        """Go on for what is on its way only. In a broken pool that is remembered, and False is returned."""
        allowed = self.state is State.GUARDED
        self.unguarding = True
        return allowed

    def take_back(self) -> bool:
        """Guard what is submitted again; False if the pool ends already."""
        with self.leaving:
            self.unguarding = self.unguarding and self.closed
            return not self.closed

    def may_break(self) -> bool:
        """Return whether `break_` is allowed."""
        return self.broken is None and not self.closed

    def break_(self, reason: str, exit: WorkerExit | None, text: str | None, *, nobody_began: bool) -> None:
        """Give the pool up; the caller has asked `may_break` before it looked at the workers."""
        self.nobody_began = nobody_began
        self.broken_by = (exit, text)
        # Last: from now on other threads answer with what is above.
        self.broken = reason

    def end(self) -> None:
        """Take deaths for what they are meant to be. From any state; twice is no error."""
        self.closed = True

    def release(self) -> bool:
        """Return whether the caller is to release the pool; True once."""
        return self._released.acquire(blocking=False)

    def disown(self) -> bool:
        """Leave what is to be released to the parent, in a process that was forked; True once."""
        if self.disowned:
            return False
        self.closed = self.disowned = True
        self._released.acquire(blocking=False)
        return True
