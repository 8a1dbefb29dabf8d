"""What the start-up files call: looks at `POOLWARDEN`, and hands over if it is set.

A module of its own, so that an interpreter that reads ``poolwarden_startup.start``
(Python 3.15 and later) without the variable does not even import the package.

PYTEST_DONT_REWRITE: imported before pytest's plugins, so it cannot be rewritten.
"""

from __future__ import annotations

import os


def start() -> None:
    """Have pools guarded as `POOLWARDEN` says. Never raises: a broken installation stops nobody."""
    if os.environ.get("POOLWARDEN"):
        try:
            from poolwarden.activation.startup import start
        except Exception:
            return
        start()
