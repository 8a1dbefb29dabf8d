"""Forks and what our threads do in the user's code keep out of each other's way.

A forked process has the locks of all threads as they were, and none of those
threads. To tell of a lost task takes locks that are not ours: a logging
handler's stream, ``sys.stdout`` of an ``on_event`` that prints. That happens in
the very moment in which the host forks a replacement, and the replacement
would stand still in its first ``print``, for ever: seen about once in 2 000
deaths, with a handler that writes to a file (3.13).

So a fork waits until nobody is telling, for `FORK_BOUND` seconds at most, since
a callback may block. Parent; any thread.

No lock: the thread that forks may be the user's, in which a signal handler may
raise, or fork, at any moment; a lock that it left taken would be waited for by
every fork from then on. Each side first says what it is about to do, and then
looks at what the other has said.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

from .. import clock

#: Seconds that a fork waits. A handler takes well under a millisecond.
FORK_BOUND: Final = 0.1

#: Seconds between two looks at what the other side has said.
_STEP: Final = 0.0005

# Numbers of threads: who writes into streams, who forks, and who is in `no_telling`.
_telling: list[int] = []
_forking: list[int] = []
_quiet: list[int] = []


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Keep this process from forking while the block runs, as far as that takes no longer than the bound."""
    me = threading.get_ident()
    deadline = clock.now() + FORK_BOUND
    try:
        _telling.append(me)
        while any(other != me for other in list(_forking)) and clock.now() < deadline:
            # Who forks waits for nobody who has not begun to tell.
            _telling.remove(me)
            clock.sleep(_STEP)
            _telling.append(me)
        yield
    finally:
        # It may be there more than once: what somebody raises in this thread comes between any two steps.
        _forget(_telling, me)


@contextlib.contextmanager
def no_telling() -> Iterator[None]:
    """Keep others from telling while the block has a host fork workers, as far as the bound allows.

    The host flushes the standard streams, and forks. If the fork itself waited,
    other threads would get in between and begin to write: such a worker did its
    tasks, and stood still in the flush at its exit, and so did the pool's
    ``join`` (3.10 and 3.11, one in a few hundred deaths under pytest).
    """
    me = threading.get_ident()
    try:
        _quiet.append(me)
        _begin_fork()
        yield
    finally:
        _end_fork()
        _forget(_quiet, me)


def _begin_fork() -> None:
    me = threading.get_ident()
    # An interrupted fork of this thread may have left its number there.
    _forget(_forking, me)
    _forking.append(me)
    deadline = clock.now() + FORK_BOUND
    # A callback may fork itself.
    while any(other != me for other in list(_telling)) and clock.now() < deadline:
        clock.sleep(_STEP)


def _end_fork() -> None:
    _forget(_forking, threading.get_ident())


def _forget(threads: list[int], thread: int) -> None:
    while thread in threads:
        # Only the thread itself takes its number out.
        threads.remove(thread)


def _before_fork() -> None:
    if threading.get_ident() not in _quiet:
        _begin_fork()


def _after_fork() -> None:
    if threading.get_ident() not in _quiet:
        _end_fork()


def _in_child() -> None:
    for threads in (_telling, _forking, _quiet):
        threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
