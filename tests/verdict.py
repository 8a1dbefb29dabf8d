"""Whether a run of `tests.chaos` was right, from all that was seen of it.

Covers the figures, and what errors claim that cannot be true. Starts no
process and reads no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.tally import STARTED, Tally, brief, read_log


@dataclass(frozen=True)
class Kill:
    """One signal that reached a live worker."""

    pid: int
    signal: int
    idle: bool
    hit: bool


@dataclass
class Verdict:
    """The figures of a run. ``ok`` only if every answer was right, and once.

    Attributes
    ----------
    planned, tasks : int
        Tasks that should have been, and that were, submitted.
    hidden : int
        Items whose answer the host itself hides behind another item's error.
    hits : Counter
        Kills by what they hit: ``running`` a task, ``between`` two tasks
        (reading, sending, waiting for more, starting), ``idle``: with no task
        outstanding.
    left : int
        Processes still there after the shutdown.
    """

    planned: int
    tasks: int
    kills: int
    hits: Counter[str]
    fates: Counter[str]
    wrong: int
    doubled: int
    unanswered: int
    longest: float
    problems: list[tuple[str, str]]
    left: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        flawless = self.wrong == self.doubled == self.unanswered == self.left == 0
        return flawless and self.tasks == self.planned and not self.notes

    def __str__(self) -> str:
        hits = ", ".join(f"{self.hits[where]} {where}" for where in ("running", "between", "idle"))
        hidden = f" hidden {self.fates['hidden']}" if self.fates["hidden"] else ""
        return (
            f"tasks {self.tasks} kills {self.kills} hit {self.hits.total()} ({hits}) "
            f"results {self.fates['result']} losses {self.fates['loss']}{hidden} "
            f"wrong {self.wrong} doubled {self.doubled} unanswered {self.unanswered} "
            f"left {self.left} longest wait {self.longest:.2f} s"
            + "".join(f"\n  {note}" for note in self.notes)
        )


def judge(tally: Tally, planned: int, log: str, kills: list[Kill]) -> Verdict:
    """Return the verdict over everything that was seen. Call it once all is over."""
    runs: dict[int, list[int]] = defaultdict(list)
    ended: set[tuple[int, int]] = set()
    last: dict[int, int] = {}
    for number, pid, phase in read_log(log):
        last[pid] = phase
        if phase == STARTED:
            runs[number].append(pid)
        else:
            ended.add((number, pid))
    hits = Counter(
        "idle" if kill.idle else "running" if last.get(kill.pid) == STARTED else "between"
        for kill in kills
        if kill.hit
    )
    signals = {kill.pid: kill.signal for kill in kills}

    def history(number: int) -> str:
        """Say in which workers a task ran, whether to its end, and what killed them."""
        parts = [
            f"{pid}{' to the end' if (number, pid) in ended else ''} (signal {signals.get(pid, 'none')})"
            for pid in runs[number]
        ]
        return f"task {number}: {tally.fates.get(number, 'no answer')}, ran in {parts}"

    problems = list(tally.problems)
    for number, error in tally.lost.items():
        problems += [("wrong", f"task {number}: {text}") for text in _false_blame(error, runs[number], kills)]
    for number, fate in tally.fates.items():
        if fate == "result" and not runs[number]:
            problems.append(("wrong", f"task {number}: a result, but its code never ran"))
    doubled = {n for n, count in tally.answers.items() if count > 1} | {n for n in runs if len(runs[n]) > 1}
    for number in sorted(doubled):
        blamed = f" {brief(tally.lost[number])}" if number in tally.lost else ""
        problems.append(("doubled", f"{tally.answers[number]} x {history(number)}{blamed}"))
    silent = [number for number in tally.submitted if tally.fates.get(number, "unanswered") == "unanswered"]
    problems += [("unanswered", history(n)) for n in silent if n not in tally.fates]
    return Verdict(
        planned=planned,
        tasks=len(tally.submitted),
        kills=len(kills),
        hits=hits,
        fates=Counter(tally.fates.values()),
        wrong=sum(kind == "wrong" for kind, _ in problems),
        doubled=len(doubled),
        unanswered=len(silent),
        longest=tally.longest,
        problems=problems,
    )


def _false_blame(error: BaseException, pids: list[int], kills: list[Kill]) -> Iterator[str]:
    """Yield what the error of a lost task claims that cannot be true."""
    blamed = getattr(getattr(error, "exit", None), "pid", None)
    killed = {kill.pid: kill for kill in kills}
    if blamed not in killed:
        yield f"lost with worker {blamed}, which nobody had killed: {brief(error)}"
    elif killed[blamed].idle:
        yield f"lost with worker {blamed}, which was killed while no task was outstanding: {brief(error)}"
    elif error.exit.exitcode != -killed[blamed].signal:
        yield f"exit code {error.exit.exitcode} after signal {killed[blamed].signal}: {brief(error)}"
    if len(pids) == 1 and pids[0] != blamed:
        yield f"ran in worker {pids[0]}, error blames {blamed}"
    if pids and not error.may_have_run:
        yield f"ran in worker {pids[0]}, error says that it did not"
