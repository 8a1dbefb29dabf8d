"""How a guarded executor's calls get into the pipe to its workers."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures.process import _CallItem
from types import SimpleNamespace
from typing import Any

import pytest

from poolwarden.hosts.executor.call_queue import CallQueue
from poolwarden.worker import envelope
from tests.contract.waiting import eventually

BOUND = 30.0
ROOM = 100


@pytest.fixture
def calls() -> Iterator[Any]:
    """Return a queue like an executor's."""
    queue: Any = multiprocessing.Queue(ROOM)
    yield queue
    # The reading end first: a feeder thread that a failed test left before a full pipe ends then.
    queue._reader.close()
    queue.close()
    queue.join_thread()
    queue._writer.close()


def guarded(calls: Any) -> CallQueue:
    executor = SimpleNamespace(_call_queue=calls, _result_queue=None)
    return CallQueue(executor)


def call(number: int, data: bytes = b"", function: Any = envelope.run) -> _CallItem:
    return _CallItem(number, function, (data,), {})


def taken(calls: Any, count: int) -> list[int]:
    return [calls.get(timeout=BOUND).work_id for _ in range(count)]


def room(calls: Any) -> int:
    return int(calls._sem._semlock._get_value())


def test_only_the_first_guarded_call_needs_the_feeder_thread(
    calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = guarded(calls)
    queue.put(call(1))
    assert calls._thread is not None, "at the end of the interpreter no thread can be started"
    assert taken(calls, 1) == [1]
    eventually(lambda: not calls._wlock._semlock._is_zero(), "the feeder thread behind its write")
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.queues.Queue, "put", None)
        queue.put(call(2))
        queue.put(call(3))
    assert room(calls) == ROOM - 2
    assert taken(calls, 2) == [2, 3]
    assert room(calls) == ROOM


def test_a_call_of_the_host_goes_its_own_way(calls: Any) -> None:
    queue = guarded(calls)
    queue.put(call(1, function=len))
    assert calls._thread is not None
    assert taken(calls, 1) == [1]


def test_a_full_pipe_holds_nobody_up(calls: Any) -> None:
    queue, numbers = guarded(calls), list(range(60))

    def put_all() -> None:
        for number in numbers:
            queue.put(call(number, b"x" * 3000))

    # Nobody reads, and the pipe takes about 20 of these.
    thread = threading.Thread(target=put_all, daemon=True)
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert room(calls) == ROOM - len(numbers)
    assert taken(calls, len(numbers)) == numbers
    assert room(calls) == ROOM
