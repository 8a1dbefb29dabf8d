"""A pool's workers as lanes of SVG: what they did, and how they ended.

A worker that replaces another one takes its lane, so there are as many lanes
as there were workers at one time. Widths are percentages: the picture fits any
screen without a script. Things closer together than one cell of a lane are
drawn as one, so that a page stays small however much has happened.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from .text import code, duration, escape, plural

#: Cells of all lanes of a page together, and of one lane.
CELLS: Final = 12_000
FEWEST, MOST = 60, 600
#: The same for shapes and lives, which would cover each other.
COARSE: Final = 100
#: Functions that get a colour of their own.
COLOURS: Final = 5

_MARKS: Final = {
    "task_lost": "lost",
    "task_retried": "lost",
    "worker_lost": "lost",
    "init_failed": "lost",
    "task_timeout": "killed",
    "task_cancelled": "killed",
    "worker_killed": "killed",
    "pool_broken": "broken",
    "pool_repaired": "repaired",
}
_SHAPES: Final = {
    "lost": "M-5,-5L5,5M5,-5L-5,5",
    "killed": "M0,-6L6,0L0,6L-6,0Z",
    "broken": "M-5,-5H5V5H-5Z",
    "repaired": "M0,-5V5M-5,0H5",
}
_WORDS: Final = {
    "lost": "worker lost",
    "killed": "worker killed, or task stopped, by the guard",
    "broken": "pool given up",
    "repaired": "pool repaired",
}


class Span(NamedTuple):
    """Something that has lasted, as fractions of the picture's width."""

    start: float
    end: float
    kind: str
    title: str
    tasks: int = 1


@dataclass
class Lane:
    """One row of the picture."""

    name: str
    pids: list[int] = field(default_factory=list)
    lives: list[Span] = field(default_factory=list)
    bars: list[Span] = field(default_factory=list)
    marks: list[tuple[float, str, str]] = field(default_factory=list)


class Picture:
    """The timeline of one pool.

    Parameters
    ----------
    pool : dict
        As in the JSON file.
    events : iterable of dict
        The pool's own.
    ended : float
        When the report was written.
    """

    def __init__(self, pool: dict[str, Any], events: Iterable[dict[str, Any]], ended: float) -> None:
        self._start = pool["opened"]
        self._length = max((pool["closed"] or ended) - self._start, 1e-3)
        self.pool = Lane("pool")
        self.lanes: list[Lane] = []
        self._lane_of: dict[int, Lane] = {}
        self.functions = _busiest(pool["bars"])
        self._add_lives(pool["workers"])
        for bar in sorted(pool["bars"], key=lambda bar: bar["start"]):
            if bar["pid"] in self._lane_of:
                self._lane_of[bar["pid"]].bars.append(self._bar(bar))
        for event in events:
            lane = self._lane_of.get(event["pid"], self.pool)
            lane.marks.append((self._at(event["time"]), _MARKS.get(event["kind"], "lost"), event["detail"]))

    def svg(self, cells: int, most: int) -> Iterator[str]:
        """Yield the rows, at most `most` workers' lanes of so many cells."""
        cells = min(max(cells, FEWEST), MOST)
        rows = [*([self.pool] if self.pool.marks else []), *self.lanes[:most]]
        yield '<div class="lanes" tabindex="0" role="group" aria-label="Timeline"><div class="rows">'
        for lane in rows:
            yield f'<div class="row"><span class="name">{escape(lane.name)}</span>'
            yield f'<svg role="img" aria-label="{escape(_description(lane))}">'
            yield from _drawn(lane, cells)
            yield "</svg></div>"
        yield from self._axis()
        yield "</div></div>"
        if len(self.lanes) > most:
            yield f"<p>{plural(len(self.lanes) - most, 'more lane')} not shown.</p>"

    def legend(self) -> Iterator[str]:
        """Yield what the colours and shapes stand for."""
        yield '<ul class="legend">'
        for number, name in enumerate(self.functions):
            key = f'<svg class="key"><rect class="f{number}" width="100%" height="12"/></svg>'
            yield f"<li>{key}{code(name)}</li>"
        used = {kind for lane in (self.pool, *self.lanes) for _, kind, _ in lane.marks}
        for kind, word in _WORDS.items():
            if kind in used:
                yield f'<li><svg class="key">{_mark(0.5, kind, word, 6)}</svg>{word}</li>'
        if any(len(lane.lives) > 1 for lane in self.lanes):
            key = '<rect class="again" x="8" width="2" height="12"/>'
            yield f'<li><svg class="key">{key}</svg>worker started anew</li>'
        yield "</ul>"

    def _at(self, time: float) -> float:
        return float(min(max((time - self._start) / self._length, 0.0), 1.0))

    def _add_lives(self, workers: list[dict[str, Any]]) -> None:
        free: list[int] = []
        ends: list[tuple[float, int]] = []
        for worker in sorted(workers, key=lambda worker: worker["started"]):
            while ends and ends[0][0] <= worker["started"]:
                heapq.heappush(free, heapq.heappop(ends)[1])
            if free:
                number = heapq.heappop(free)
            else:
                number = len(self.lanes)
                self.lanes.append(Lane(str(number + 1)))
            lane = self._lane_of[worker["pid"]] = self.lanes[number]
            lane.pids.append(worker["pid"])
            ended = self._start + self._length if worker["ended"] is None else worker["ended"]
            heapq.heappush(ends, (ended, number))
            title = f"worker {worker['pid']}, {duration(ended - worker['started'])}, {worker['end']}"
            lane.lives.append(Span(self._at(worker["started"]), self._at(ended), "life", title))

    def _bar(self, bar: dict[str, Any]) -> Span:
        function, length = bar["function"], duration(bar["end"] - bar["start"])
        kind = f"f{self.functions.index(function)}" if function in self.functions else "other"
        name = function or "several functions"
        if bar["index"] is not None:
            name += f", item {bar['index']}"
        if bar["tasks"] > 1:
            name += f", {bar['tasks']} tasks seen"
        title = f"{name}, {length}, worker {bar['pid']}{', lost' if bar['lost'] else ''}"
        return Span(self._at(bar["start"]), self._at(bar["end"]), kind, title, bar["tasks"])

    def _axis(self) -> Iterator[str]:
        yield '<div class="row axis" aria-hidden="true"><span class="name"></span><div class="ticks">'
        for part in range(5):
            yield f"<span>{duration(self._length * part / 4)}</span>"
        yield "</div></div>"


def _busiest(bars: list[dict[str, Any]]) -> list[str]:
    """Return the functions that took most time."""
    busy: dict[str, float] = {}
    for bar in bars:
        if bar["function"]:
            busy[bar["function"]] = busy.get(bar["function"], 0.0) + bar["end"] - bar["start"]
    return heapq.nlargest(COLOURS, busy, key=busy.__getitem__)


def _description(lane: Lane) -> str:
    counts = Counter(_WORDS[kind] for _, kind, _ in lane.marks)
    said = [plural(len(lane.pids), "worker"), plural(sum(bar.tasks for bar in lane.bars), "task") + " seen"]
    said = said if lane.pids else []
    return f"Lane {lane.name}: {', '.join([*said, *(f'{n}x {word}' for word, n in counts.items())])}"


def _drawn(lane: Lane, cells: int) -> Iterator[str]:
    for number, span in enumerate(_merged(lane.lives, min(cells, COARSE))):
        yield _rect(span, 2, 18)
        if number:
            yield f'<rect class="again" x="{100 * span.start:.3f}%" y="0" width="2" height="22"/>'
    for span in _merged(lane.bars, cells):
        yield _rect(span, 4, 14)
    groups: dict[tuple[int, str], list[tuple[float, str]]] = {}
    for at, kind, title in lane.marks:
        groups.setdefault((int(at * min(cells, COARSE)), kind), []).append((at, title))
    for (_, kind), group in groups.items():
        title = group[0][1] if len(group) == 1 else f"{len(group)}x {_WORDS[kind]}"
        yield _mark(group[0][0], kind, title, 11)


def _merged(spans: list[Span], cells: int) -> Iterator[Span]:
    """Yield spans in order, those joined that fall into one cell together."""
    last: Span | None = None
    for span in spans:
        if last is not None and span.end - last.start < 1 / cells:
            count = last.tasks + span.tasks
            kind = last.kind if last.kind == span.kind else "other"
            last = Span(last.start, span.end, kind, f"{count}x {span.title.partition(',')[0]} …", count)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _rect(span: Span, y: int, height: int) -> str:
    # Wide enough to be seen.
    width = max(span.end - span.start, 0.001)
    return (
        f'<rect class="{span.kind}" x="{100 * span.start:.3f}%" y="{y}" width="{100 * width:.3f}%" '
        f'height="{height}"><title>{escape(span.title)}</title></rect>'
    )


def _mark(at: float, kind: str, title: str, y: int) -> str:
    return (
        f'<svg class="mark" x="{100 * at:.3f}%" y="{y}"><path class="{kind}" d="{_SHAPES[kind]}">'
        f"<title>{escape(title)}</title></path></svg>"
    )
