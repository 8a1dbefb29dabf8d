"""One submission to a pool, in the shape that the pool's task thread iterates over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ...core.task_names import Site


class Sender(Protocol):
    """What sends the tasks of feeds.

    Attributes
    ----------
    reraise : callable
        The host's function that raises its argument, in a worker.
    """

    reraise: Any

    def send_all(self, feed: Feed) -> None:
        """Send a feed's tasks."""

    def done(self, feed: Feed) -> None:
        """Note that a feed is used up."""


class Feed:
    """One submission's tasks, in the shape that the task thread iterates over.

    The task thread is given neither tasks nor ``set_length``. It would pickle
    each message with a new ForkingPickler, which takes longer than all else.

    Attributes
    ----------
    job : object
        The host's key of the submission; None until its first task is taken.
    count : int
        Tasks taken so far.
    is_single : bool
        Whether this is one task, and no iterable of them.
    site : tuple or None
        File and line of the user's call.
    waiting : list
        Empty once the submission is used up.
    """

    __slots__ = ("_items", "_sender", "_set_length", "_tasks", "count", "is_single", "job", "site", "waiting")

    def __init__(
        self,
        sender: Sender,
        tasks: Any,
        set_length: Callable[[int], None] | None,
        site: Site | None,
    ) -> None:
        self._sender = sender
        self.is_single = isinstance(tasks, list)
        self._tasks: Iterator[Any] = iter(tasks)
        self._set_length = set_length
        self.job: Any = None
        self.count = 0
        self._items = 0
        self.waiting = [True]
        self.site = site

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Send everything and have nothing left for the task thread."""
        try:
            self._sender.send_all(self)
        finally:
            self._sender.done(self)
        raise StopIteration

    def next_task(self) -> Any:
        """Return the pool's next task tuple.

        Raises
        ------
        StopIteration
            There is none; the length was told.
        """
        if self.job is None and inspect.isgenerator(self._tasks):
            # Before it ends, by an exit in the user's iterable for example.
            self.job = (inspect.getgeneratorlocals(self._tasks) or {}).get("result_job")
        try:
            task = next(self._tasks)
        except StopIteration:
            if self._set_length is not None:
                set_length, self._set_length = self._set_length, None
                set_length(self.count)
            raise
        except BaseException as error:
            # The pool's generator catches those that are an `Exception`.
            self._tasks = iter(())
            # As the pool makes one of an iterable that has raised.
            task = self.job, self.count, self._sender.reraise, (error,), {}
        self.count = task[1] + 1
        return task

    def count_items(self, count: int) -> int:
        """Add a chunk's items; return the index of its first."""
        first = self._items
        self._items += count
        return first

    def take_back(self) -> bool:
        """Take a single task out again; False if the task thread has it already. Any thread."""
        # One step in C, so that one of the two gets it.
        return next(self._tasks, None) is not None

    def end(self) -> None:
        """End an ``imap`` with the task at hand: its iterable may be endless."""
        if self._set_length is not None:
            self.stop()

    def stop(self) -> None:
        """Have no more tasks: nobody waits for them, and the iterable may be endless."""
        self._tasks = iter(())
