"""Which results a worker sends without its host's pickler."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
from concurrent.futures.process import _ResultItem
from typing import Any

import pytest

from poolwarden.worker.plain import send_plainly


class Results(multiprocessing.queues.SimpleQueue):  # type: ignore[type-arg]
    """Counts what is sent in the host's own way."""

    def __init__(self) -> None:
        super().__init__(ctx=multiprocessing.get_context())
        self.by_host = 0

    def put(self, obj: Any) -> None:
        self.by_host += 1
        super().put(obj)


@pytest.mark.parametrize(
    ("result", "by_host"),
    [
        ((7, 0, b"N."), 0),
        ((7, 0, "N."), 1),
        ((7, True, b"N."), 1),
        ((7, 0), 1),
        ([7, 0, b"N."], 1),
        (None, 1),
    ],
)
def test_only_outcomes_are_sent_plainly(result: Any, by_host: int) -> None:
    results = Results()
    send_plainly(results)
    results.put(_ResultItem(3, result=result))
    received = results.get()
    assert (received.work_id, received.exception, received.result) == (3, None, result)
    assert results.by_host == by_host
    results.close()


def test_what_is_no_result_is_sent_by_the_host() -> None:
    results = Results()
    send_plainly(results)
    results.put(4711)
    assert results.get() == 4711
    assert results.by_host == 1
    results.close()
