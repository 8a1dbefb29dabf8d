"""A guard belongs to the process that has made it.

A fork copies it, with pipes that are shared and numbers that both processes
would go on to use: the parent's tasks got the child's values. So in a forked
process each guard is taken off its pool before anything else runs there; what
is left is the host's own pool, and what that does after a fork is the host's.

Imported behind what is used here: the hooks run in the order in which they were
registered, and those of the other modules make locks anew that this one takes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from typing import Any, Final, Protocol

from ..system import forking, forkserver_status, patches, watchdog

#: For readers of this module alone: what has to be imported before.
_BEFORE: Final = (forking, forkserver_status, patches, watchdog)


class Disowned(Protocol):
    """What a fork must not share."""

    def disown(self) -> None:
        """Take the guard off its pool, in a process that was forked; waits for nothing."""


_guards: Final[weakref.WeakSet[Disowned]] = weakref.WeakSet()


def belong(guard: Disowned) -> None:
    """Have a guard taken off its pool in every process that is forked from this one."""
    _guards.add(guard)


def is_made_here(process: Any) -> bool:
    """Return whether a process object of `multiprocessing` is of a child of this process."""
    return getattr(process, "_parent_pid", None) in (None, os.getpid())


def forget_child(process: Any) -> None:
    """Keep the exit of a forked process from ending the children of the process above, as it does its own."""
    package = type(process).__mro__[-2].__module__.partition(".")[0]
    module: Any = sys.modules.get(f"{package}.process")
    getattr(module, "_children", set()).discard(process)


def _disown_all() -> None:
    """In a forked process."""
    for guard in list(_guards):
        # One that is half made: nothing refers to it.
        with contextlib.suppress(Exception):
            guard.disown()
    _guards.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
