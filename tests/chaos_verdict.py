"""Whether a run of `tests.chaos` was right, from all that was seen of it.

Covers the figures, and what errors claim that cannot be true. Starts no
process and reads no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos_tasks import FATES, STARTED, Blame, Tally, read_log


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


class Runs:
    """What the tasks have written of themselves, read twice: for all in short, and for some in full.

    Parameters
    ----------
    log : str
        The file.
    count : int
        How many tasks there are.

    Attributes
    ----------
    times : bytearray
        How often each task began; no more than 255 times are counted.
    unfinished : Counter
        By pid, how many tasks began there and did not end. A pid may come again.
    """

    def __init__(self, log: str, count: int) -> None:
        self._log = log
        self.times = bytearray(count)
        self.unfinished: Counter[int] = Counter()
        last: dict[int, int] = {}
        for number, pid, phase in read_log(log):
            if phase == STARTED:
                self.times[number] = min(self.times[number] + 1, 255)
                self.unfinished[pid] += last.get(pid) == STARTED
            last[pid] = phase
        self.unfinished.update(pid for pid, phase in last.items() if phase == STARTED)

    def of(self, numbers: set[int]) -> tuple[dict[int, list[int]], set[tuple[int, int]]]:
        """Return the pids in which these tasks began, and pairs of task and pid for those that ended."""
        began: dict[int, list[int]] = defaultdict(list)
        ended: set[tuple[int, int]] = set()
        for number, pid, phase in read_log(self._log):
            if number in numbers and phase == STARTED:
                began[number].append(pid)
            elif number in numbers:
                ended.add((number, pid))
        return began, ended


def judge(tally: Tally, planned: int, log: str, kills: list[Kill]) -> Verdict:
    """Return the verdict over everything that was seen. Call it once all is over."""
    ran = Runs(log, max(planned, tally.submitted))
    twice = {n for n, times in enumerate(ran.times) if times > 1}
    doubled = twice.union(tally.numbers(lambda _, answers: answers > 1))
    unanswered = FATES.index("unanswered")
    silent = tally.numbers(lambda fate, _: fate in (0, unanswered))
    began, ended = ran.of({*doubled, *silent, *tally.lost})
    signals: dict[int, list[int]] = defaultdict(list)
    for kill in kills:
        signals[kill.pid].append(kill.signal)

    def history(number: int) -> str:
        """Say in which workers a task ran, whether to its end, and what killed them."""
        parts = [
            f"{pid}{' to the end' if (number, pid) in ended else ''} (signal {signals.get(pid, 'none')})"
            for pid in began[number]
        ]
        return f"task {number}: {tally.fate(number) or 'no answer'}, ran in {parts}"

    problems = list(tally.problems)
    for number, blame in tally.lost.items():
        claims = _false_blame(blame, began[number], kills)
        problems += [("wrong", f"task {number}: {text}") for text in claims]
    result = FATES.index("result")
    for number in tally.numbers(lambda fate, _: fate == result):
        if not ran.times[number]:
            problems.append(("wrong", f"task {number}: a result, but its code never ran"))
    for number in sorted(doubled):
        blamed = f" {tally.lost[number].text}" if number in tally.lost else ""
        problems.append(("doubled", f"{tally.answers(number)} x {history(number)}{blamed}"))
    problems += [("unanswered", history(n)) for n in silent if not tally.fate(n)]
    return Verdict(
        planned=planned,
        tasks=tally.submitted,
        kills=len(kills),
        hits=_hits(kills, ran.unfinished),
        fates=tally.fates(),
        wrong=sum(kind == "wrong" for kind, _ in problems),
        doubled=len(doubled),
        unanswered=len(silent),
        longest=tally.longest,
        problems=problems,
    )


def _hits(kills: list[Kill], unfinished: Counter[int]) -> Counter[str]:
    left = Counter(unfinished)
    hits: Counter[str] = Counter()
    for kill in kills:
        if kill.hit and kill.idle:
            hits["idle"] += 1
        elif kill.hit:
            hits["running" if left[kill.pid] > 0 else "between"] += 1
            left[kill.pid] -= 1
    return hits


def _false_blame(blame: Blame, pids: list[int], kills: list[Kill]) -> Iterator[str]:
    """Yield what the error of a lost task claims that cannot be true.

    A pid comes again after some 30 000 processes and threads: each kill of it may be the one that is meant.
    """
    killed = [kill for kill in kills if kill.pid == blame.pid]
    busy = [kill for kill in killed if not kill.idle]
    if not killed:
        yield f"lost with worker {blame.pid}, which nobody had killed: {blame.text}"
    elif not busy:
        yield f"lost with worker {blame.pid}, which was killed while no task was outstanding: {blame.text}"
    elif blame.exitcode not in {-kill.signal for kill in busy}:
        sent = ", ".join(str(int(kill.signal)) for kill in busy)
        yield f"exit code {blame.exitcode} after signal {sent}: {blame.text}"
    if len(pids) == 1 and pids[0] != blame.pid:
        yield f"ran in worker {pids[0]}, error blames {blame.pid}"
    if pids and not blame.may_have_run:
        yield f"ran in worker {pids[0]}, error says that it did not"
