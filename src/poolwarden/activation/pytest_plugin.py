"""pytest: options, settings and the marker. The rest is in `pytest_guard`, imported when it is wanted.

pytest loads this in every run of an environment in which poolwarden is
installed, so it imports nothing that is not there already.
"""

from __future__ import annotations

import os

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
    parser.addini(
        "poolwarden",
        "guard the process pools that tests make; the variable POOLWARDEN, if set, decides instead",
        type="bool",
        default=False,
    )
    parser.addini(
        "poolwarden_timeout",
        "seconds that one task of a guarded pool may run; POOLWARDEN=timeout=… goes before it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start guarding if an option, `POOLWARDEN` or a setting asks for it, in this order."""
    config.addinivalue_line("markers", _MARKER)
    variable = os.environ.get("POOLWARDEN")
    if config.getoption("--poolwarden") or (config.getini("poolwarden") if variable is None else variable):
        from .pytest_guard import begin

        begin(config, everywhere=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Guard marked tests though nothing asks for all of them."""
    if any(item.get_closest_marker("poolwarden") for item in session.items):
        from .pytest_guard import begin

        begin(session.config, everywhere=False)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process of xdist has seen; its controller collects no tests, and so knows of no marker."""
    if lines := getattr(node, "workeroutput", {}).get("poolwarden"):
        from .pytest_guard import begin

        begin(node.config, everywhere=False).lines += lines
