"""Tells that pools are left bare, once for each reason: a program may make thousands.

Parent; any thread.
"""

from __future__ import annotations

import logging
from typing import Final

log = logging.getLogger("poolwarden")

_told: Final[set[str]] = set()


def warn_left_bare(what: str, why: object) -> None:
    """Warn that something is not guarded ("this pool is"), unless that was said for the same reason."""
    text = f"poolwarden: {what} not guarded: {why}"
    if text not in _told:
        _told.add(text)
        log.warning("%s", text)
