"""What is kept of a run: its events, bounded, and the tracks of its pools.

Events come from any thread. Where it is written, and when, is in `writing`;
lanes and bars are in `track`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

from .. import clock

if TYPE_CHECKING:
    from ..records import Event
    from .track import Track

#: Events that are kept, of losses and of what else happens.
LOSSES_MAX: Final = 10_000
OTHERS_MAX: Final = 2_000
_OTHERS: Final = ("pool_repaired", "worker_killed")
#: Characters of one stack (its end is kept), and of all stacks.
STACK_MAX: Final = 10_000
STACKS_MAX: Final = 4_000_000
#: Pools that get lanes.
POOLS_MAX: Final = 200


class Recording:
    """What has happened in this process since it was made.

    Attributes
    ----------
    events, stacks : list
        What was kept, and the stack of each; read them by `kept`.
    tracks : list of Track
        The lanes of pools, oldest first.
    counts, left_out : Counter
        Events by kind, kept or not; and what found no room, by what it is.
    happened : int
        Number of events so far.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.started = clock.wall()
        self.events: list[Event] = []
        self.stacks: list[str | None] = []
        self.tracks: list[Track] = []
        self.counts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.happened = 0
        self._room = {False: LOSSES_MAX, True: OTHERS_MAX}
        self._stack_room = STACKS_MAX
        self._lock = threading.Lock()

    def event(self, event: Event) -> None:
        """Keep an event, if there is room for it; count it in any case."""
        with self._lock:
            self.counts[event.kind] += 1
            self.happened += 1
            other = event.kind in _OTHERS
            if not self._room[other]:
                self.left_out["events"] += 1
                return
            self._room[other] -= 1
            self.events.append(event)
            stack = event.stack and event.stack[-STACK_MAX:]
            if stack and len(stack) > self._stack_room:
                self.left_out["stacks"] += 1
                stack = None
            self._stack_room -= len(stack or "")
            self.stacks.append(stack)

    def add(self, track: Track) -> bool:
        """Keep the lanes of a new pool; return False, and count it, if there is no room for them."""
        with self._lock:
            if len(self.tracks) < POOLS_MAX:
                self.tracks.append(track)
                return True
            self.left_out["pools"] += 1
            return False

    def kept(self) -> tuple[dict[str, int], list[tuple[Event, str | None]]]:
        """Return the counts and the events with their stacks, at one moment."""
        with self._lock:
            return dict(sorted(self.counts.items())), list(zip(self.events, self.stacks, strict=True))
