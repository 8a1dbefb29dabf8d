"""Fixtures of the attack family."""

from __future__ import annotations

import importlib.util

import pytest

from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLoky


@pytest.fixture(scope="session")
def warm_loky(warm: None) -> None:
    """Start what loky and joblib keep for the whole process; skip where they are not installed."""
    pytest.importorskip("loky")
    pytest.importorskip("joblib")
    for host in (BindLoky(), BindJoblib()):
        host.close(host.make_pool())


def skip_without(module: str) -> None:
    """Skip a test whose program needs a module; it is not imported here, since it may patch much."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
