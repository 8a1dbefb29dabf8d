"""pytest: options, settings and the marker. The rest is in `pytest_guard`, imported when it is wanted.

pytest loads this in every run of an environment in which poolwarden is
installed, so it imports nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pytest

_MARKER = (
    "poolwarden(timeout=None, grace=0, retries=0, losses='raise', startup_timeout=None): "
    "guard the pools that this test makes, with these options"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--poolwarden`` and the settings; their names are ours alone."""
    parser.getgroup("poolwarden").addoption(
        "--poolwarden",
        action="store_true",
        help="guard the process pools that tests make: a lost worker fails its test at once",
    )
    parser.addini("poolwarden", "guard the process pools that tests make", type="bool", default=False)
    parser.addini("poolwarden_timeout", "seconds that one task of a guarded pool may run")


def pytest_configure(config: pytest.Config) -> None:
    """Start guarding if an option, a setting or `POOLWARDEN` asks for it."""
    config.addinivalue_line("markers", _MARKER)
    if config.getoption("--poolwarden") or config.getini("poolwarden") or os.environ.get("POOLWARDEN"):
        from .pytest_guard import begin

        begin(config, everywhere=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Guard marked tests though nothing asks for all of them."""
    if any(item.get_closest_marker("poolwarden") for item in session.items):
        from .pytest_guard import begin

        begin(session.config, everywhere=False)
