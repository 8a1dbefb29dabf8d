"""Forks and what our threads do in the user's code keep out of each other's way.

A forked process has the locks of all threads as they were, and none of those
threads. To tell of a lost task takes locks that are not ours: a logging
handler's stream, ``sys.stdout`` of an ``on_event`` that prints. That happens in
the very moment in which the host forks a replacement, and the replacement
would stand still in its first ``print``, for ever: seen about once in 2 000
deaths, with a handler that writes to a file (3.13).

So a fork waits until nobody is telling, for `FORK_BOUND` seconds at most, since
a callback may block. Parent; any thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

#: Seconds that a fork waits. A handler takes well under a millisecond.
FORK_BOUND: Final = 0.1

_changed = threading.Condition()
_telling: list[int] = []
_forking = 0
# Threads that are in `no_telling`.
_quiet: list[int] = []


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Keep this process from forking while the block runs, as far as that takes no longer than the bound."""
    me = threading.get_ident()
    with _changed:
        _changed.wait_for(lambda: not _forking, FORK_BOUND)
        _telling.append(me)
    try:
        yield
    finally:
        with _changed:
            _telling.remove(me)
            _changed.notify_all()


@contextlib.contextmanager
def no_telling() -> Iterator[None]:
    """Keep others from telling while the block has a host fork workers, as far as the bound allows.

    The host flushes the standard streams, and forks. If the fork itself waited,
    other threads would get in between and begin to write: such a worker did its
    tasks, and stood still in the flush at its exit, and so did the pool's
    ``join`` (3.10 and 3.11, one in a few hundred deaths under pytest).
    """
    me = threading.get_ident()
    _quiet.append(me)
    try:
        _begin_fork()
        yield
    finally:
        _end_fork()
        _quiet.remove(me)


def _begin_fork() -> None:
    global _forking
    me = threading.get_ident()
    with _changed:
        _forking += 1
        # A callback may fork itself.
        _changed.wait_for(lambda: all(other == me for other in _telling), FORK_BOUND)


def _end_fork() -> None:
    global _forking
    with _changed:
        _forking -= 1
        _changed.notify_all()


def _before_fork() -> None:
    if threading.get_ident() not in _quiet:
        _begin_fork()


def _after_fork() -> None:
    if threading.get_ident() not in _quiet:
        _end_fork()


def _in_child() -> None:
    global _changed, _forking
    _changed = threading.Condition()
    _telling.clear()
    _quiet.clear()
    _forking = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
