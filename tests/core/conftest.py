"""Fixtures for the tests of `poolwarden.core`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.worker.places import mounted


@pytest.fixture
def small_place(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Makes a folder with room for a given number of pages."""
    with ExitStack() as stack:
        yield lambda pages: stack.enter_context(mounted(tmp_path / "small", pages))
