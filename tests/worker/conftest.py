"""Fixtures for the tests of `poolwarden.worker`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from poolwarden.worker.member import Member
from poolwarden.worker.payload import Store
from tests.worker.members import member_of
from tests.worker.places import fill, mounted


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A pool's private folder, as the parent makes it."""
    path = tmp_path / "pool"
    path.mkdir()
    (path / "host").write_text("multiprocessing.reduction:ForkingPickler")
    return str(path)


@pytest.fixture
def store(folder: str) -> Iterator[Store]:
    store = Store(folder)
    yield store
    store.close()


@pytest.fixture
def member(folder: str) -> Iterator[Member]:
    """This process as a worker of the pool."""
    with member_of(folder) as member:
        yield member


@pytest.fixture
def small_place(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Makes folders with room for a given number of pages."""
    with ExitStack() as stack:
        yield lambda pages: stack.enter_context(mounted(tmp_path / "small", pages))


@pytest.fixture
def full(small_place: Callable[[int], str]) -> str:
    """A pool's folder with no room left."""
    place = small_place(8)
    Store(place).close()
    fill(place)
    return place


@pytest.fixture
def full_store(full: str) -> Iterator[Store]:
    store = Store(full)
    yield store
    store.close()
