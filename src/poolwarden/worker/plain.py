"""Outcomes of guarded calls, sent without the host's own pickler.

Runs in the worker. What an executor sends back holds what `envelope.run` has
returned, two numbers and bytes, which every pickler writes alike. To make one
of loky's takes 11 us (3.13), and the result itself has been through one.
"""

from __future__ import annotations

import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def send_plainly(results: Any) -> None:
    """Have a host's queue pickle outcomes with `pickle` itself, and the rest as before.

    Parameters
    ----------
    results : multiprocessing.queues.SimpleQueue
        Through which this worker sends its results; loky's is one.
    """
    as_before, lock, send = results.put, results._wlock, results._writer.send_bytes

    def put(item: Any) -> None:
        if not _is_outcome(getattr(item, "result", None)):
            as_before(item)
            return
        message = pickle.dumps(item)
        with lock:
            send(message)

    if lock is not None:
        results.put = put


def _is_outcome(result: object) -> bool:
    # Looked at closely: a task that was sent before the guard, or after it,
    # may return a tuple of anything.
    return type(result) is tuple and len(result) == 3 and tuple(map(type, result)) == (int, int, bytes)
