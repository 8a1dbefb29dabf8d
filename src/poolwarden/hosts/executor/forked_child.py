"""A guarded executor in a process that was forked: the host's again.

Runs in the forked process, in the hook that comes before anything else there,
but for what `OwnQueues` does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


class OwnQueues:
    """Stands in for ``_work_ids.put`` of an executor that had no manager thread when it was copied.

    It starts workers here, and would share its pipes with the parent, which
    may have tasks of its own by then: the parent's task would be answered with
    this process's value. So it gets pipes of its own, before its first task.

    Parameters
    ----------
    executor : object
        The host's.
    renew_queues : callable
        Gives an executor pipes of its own, as its host does.
    """

    def __init__(self, executor: Any, renew_queues: Callable[[Any], None]) -> None:
        self._renew_queues = renew_queues
        self._executor = weakref.ref(executor)
        executor._work_ids.put = self

    def __call__(self, *args: Any) -> None:
        executor: Any = self._executor()
        self.renew()
        executor._work_ids.put(*args)

    def renew(self) -> None:
        """Give the executor its own pipes."""
        executor: Any = self._executor()
        del executor._work_ids.put
        self._renew_queues(executor)


def renew_copied(executor: Any) -> None:
    """Give an executor that is to be guarded here its own pipes, if it has been copied by a fork."""
    put = vars(executor._work_ids).get("put")
    if isinstance(put, OwnQueues):
        put.renew()


def leave_to_host(executor: Any) -> None:
    """Take off what a guard has put on the parts of an executor, whose own methods are back."""
    for queue, name in ((executor._work_ids, "get"), (executor._call_queue, "put")):
        if queue is not None:
            vars(queue).pop(name, None)
    if executor._processes is not None:
        executor._processes = dict(executor._processes)
