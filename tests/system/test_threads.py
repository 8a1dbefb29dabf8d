"""Threads that begin, and threads that die with their first step."""

from __future__ import annotations

import threading

import pytest

from poolwarden.system import threads


def test_one_that_begins() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.set)
    threads.start(thread)
    thread.join()
    assert done.is_set()


def test_one_that_dies_with_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bare `Thread.start` waits for it for ever."""
    monkeypatch.setattr(threads, "BEGIN_BOUND", 0.05)
    thread = threading.Thread(target=print, daemon=True)
    monkeypatch.setattr(thread, "_bootstrap", lambda: None)
    with pytest.raises(RuntimeError, match="did not begin"):
        threads.start(thread)
    assert thread not in threading.enumerate()
    assert not thread.is_alive()
