"""What the start-up files call: looks at `POOLWARDEN` and `POOLWARDEN_REPORT`, and hands over.

A module of its own, so that an interpreter that reads ``poolwarden_startup.start``
(Python 3.15 and later) without the variables does not even import the package.

PYTEST_DONT_REWRITE: imported before pytest's plugins, so it cannot be rewritten.
"""

from __future__ import annotations

import os


def start() -> None:
    """Have pools guarded as `POOLWARDEN` says. Never raises: a broken installation stops nobody."""
    if os.environ.get("POOLWARDEN") or os.environ.get("POOLWARDEN_REPORT"):
        try:
            from poolwarden.activation.startup import start
        except Exception:
            return
        start()
