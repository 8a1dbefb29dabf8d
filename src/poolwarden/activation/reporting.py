"""Has the report look on at every pool that is guarded.

Whatever leads to a guard imports this: the report is there only if
`POOLWARDEN_REPORT` or ``poolwarden run`` asks for it, which it finds out with
the first pool.
"""

from __future__ import annotations

from ..core.observing import subscribers
from ..report import open_track

subscribers.append(open_track)
