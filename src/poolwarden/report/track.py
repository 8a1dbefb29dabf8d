"""One pool's timeline: its workers' lives, and what they did.

Bounded: when there are too many bars, neighbours are joined, the shortest
first. Births, deaths and events come from any thread, looks from that of
`sampling`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .. import clock
from ..core.observing import Running

if TYPE_CHECKING:
    from ..records import Event

#: Bars of one pool, and lives of workers.
BARS_MAX: Final = 4_000
WORKERS_MAX: Final = 10_000
#: Seconds up to which neighbours are joined first; doubled until they fit.
_FIRST_JOIN: Final = 0.01

_LOST: Final = ("task_lost", "task_retried", "worker_lost", "init_failed")
_KILLED: Final = ("task_timeout", "task_cancelled", "worker_killed")


@dataclass(slots=True)
class Life:
    """A worker from its start to its end; times as `clock.now`."""

    pid: int
    started: float
    ended: float | None = None
    end: str = "running"


@dataclass(slots=True)
class Bar:
    """A time in which a worker was busy."""

    start: float
    end: float
    function: str | None
    index: int | None
    tasks: int = 1
    lost: bool = False
    key: tuple[int, ...] | None = None


class Track:
    """What is recorded of one pool.

    Attributes
    ----------
    closed : float or None
        When it ended.
    calls : int or None
        How many tasks and chunks it was given; known when it has ended.
    """

    def __init__(self, name: str, host: str, keep: Callable[[Event], None]) -> None:
        self.name = name
        self.host = host
        self.opened = clock.now()
        self.closed: float | None = None
        self.calls: int | None = None
        self.lives: list[Life] = []
        self.bars: dict[int, list[Bar]] = {}
        self.workers_left_out = 0
        self.bars_left_out = 0
        self._keep = keep
        self._living: dict[int, Life] = {}
        self._count = 0
        self._join = _FIRST_JOIN
        self._lock = threading.Lock()

    def worker_started(self, pid: int) -> None:
        """Note a birth."""
        with self._lock:
            if len(self.lives) < WORKERS_MAX:
                life = self._living[pid] = Life(pid, clock.now())
                self.lives.append(life)
            else:
                self.workers_left_out += 1

    def worker_ended(self, pid: int, *, killed: bool) -> None:
        """Note an end; if it was a loss, an event has said so before.

        Parameters
        ----------
        killed : bool
            Whether the guard has killed it.
        """
        now = clock.now()
        with self._lock:
            self._close_bar(pid, now)
            life = self._living.pop(pid, None)
            if life is not None:
                life.ended = now
                if life.end == "running":
                    life.end = "killed" if killed else "left"

    def event(self, event: Event) -> None:
        """Keep an event of this pool."""
        self._keep(event)
        if event.pid is None:
            return
        with self._lock:
            life = self._living.get(event.pid)
            if life is not None and event.kind in (*_LOST, *_KILLED):
                life.end = "killed" if event.kind in _KILLED else "lost"
            bars = self.bars.get(event.pid)
            if event.task is not None and bars:
                bars[-1].lost = True

    def look(self, found: Iterable[Running]) -> None:
        """Note what runs now."""
        now = clock.now()
        with self._lock:
            seen = set()
            for running in found:
                seen.add(running.pid)
                self._saw(running, now)
            for pid, bars in self.bars.items():
                if bars[-1].key is not None and pid not in seen:
                    self._close_bar(pid, now)

    def saw(self, running: Running) -> None:
        """Note what one worker ran just now."""
        with self._lock:
            self._saw(running, clock.now())

    def close(self, calls: int) -> None:
        """Note the end of the pool."""
        self.calls = calls
        self.closed = clock.now()

    def unlock(self) -> None:
        """Make the lock anew, in a forked process."""
        self._lock = threading.Lock()

    def _saw(self, running: Running, now: float) -> None:
        bars = self.bars.get(running.pid)
        if bars and bars[-1].key == running.key:
            bars[-1].end = now
            return
        self._close_bar(running.pid, min(now, running.started))
        if self._count >= BARS_MAX:
            self._make_room()
        if self._count >= BARS_MAX:
            self.bars_left_out += 1
            return
        bar = Bar(running.started, now, running.function, running.item, key=running.key)
        self.bars.setdefault(running.pid, []).append(bar)
        self._count += 1

    def _close_bar(self, pid: int, now: float) -> None:
        bars = self.bars.get(pid)
        if bars and bars[-1].key is not None:
            bars[-1].key = None
            bars[-1].end = max(bars[-1].start, now)

    def _make_room(self) -> None:
        """Join neighbours until half of the room is free, or all that can be are joined."""
        longest = clock.now() - self.opened
        while True:
            for pid, bars in self.bars.items():
                self.bars[pid] = _joined(bars, self._join)
            self._count = sum(map(len, self.bars.values()))
            if self._count <= BARS_MAX // 2 or self._join > longest:
                return
            self._join *= 2


def _joined(bars: list[Bar], most: float) -> list[Bar]:
    """Return bars of one worker, those joined that are not longer than `most` together."""
    kept = bars[:1]
    for bar in bars[1:]:
        last = kept[-1]
        if bar.end - last.start <= most and not last.lost and bar.key is None:
            last.end = bar.end
            last.tasks += bar.tasks
            last.lost = bar.lost
            if last.function != bar.function:
                last.function = None
            last.index = None
        else:
            kept.append(bar)
    return kept
