"""Run measurements in turn, each in its own process, and compare them.

Covers the order, the processes and the statistics; what is measured is in the
modules next to this one. Knows no host.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

#: Seconds for one measurement; the longest takes about ten.
BOUND = 120.0

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    key : str
        Which samples of the measurement.
    title, unit : str
        For people.
    how : {"ratio", "over", "value"}
        Compared to the bare host by division or by subtraction, or not at all.
    stage, target : str
        What is asked for now, and in the end; empty when there is nothing.
    limit, p99 : float or None
        The numbers in `stage` (else `target`), to mark what misses them.
    more : bool
        Whether more is better.
    subject : str
        Which variant is compared to ``"bare"``.
    """

    key: str
    title: str
    unit: str
    how: str
    stage: str = ""
    target: str = ""
    limit: float | None = None
    p99: float | None = None
    more: bool = False
    subject: str = "guarded"


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes
    ----------
    name : str
        For ``--only``.
    measure : callable
        ``measure(variant, quick)`` returns samples by row key. Runs in a
        process of its own.
    rows : tuple of Row
        What is printed.
    variants : tuple of str
        In the order in which they run in even rounds; odd ones go backwards.
    rounds : int
        How often each variant runs; ``--pairs`` replaces it.
    """

    name: str
    measure: Callable[[str, bool], Samples]
    rows: tuple[Row, ...]
    variants: tuple[str, ...] = ("bare", "guarded")
    rounds: int = 5


@dataclass
class Outcome:
    """What the rounds of one case gave: a list of rounds by variant."""

    samples: dict[str, list[Samples]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def medians(self, variant: str, key: str) -> list[float]:
        """Return the median of each round."""
        rounds = self.samples.get(variant, [])
        return [statistics.median(samples[key]) for samples in rounds if samples.get(key)]

    def pooled(self, variant: str, key: str) -> list[float]:
        """Return the samples of all rounds."""
        return [value for samples in self.samples.get(variant, []) for value in samples.get(key, [])]


@dataclass(frozen=True)
class Result:
    """The figures of one row; None where they could not be had."""

    row: Row
    bare: float | None
    subject: float | None
    value: float | None
    low: float | None
    high: float | None
    count: int
    failure: str = ""

    @property
    def misses(self) -> bool:
        """Whether a figure is on the wrong side of its limit."""
        if self.high is not None and self.row.p99 is not None and self.high > self.row.p99:
            return True
        if self.value is None or self.row.limit is None:
            return False
        return self.value < self.row.limit if self.row.more else self.value > self.row.limit


def run(case: Case, rounds: int, quick: bool) -> Outcome:
    """Return the outcome of `rounds` rounds of a case: ABBA, against drift."""
    outcome = Outcome()
    for number in range(rounds):
        order: Sequence[str] = case.variants if number % 2 == 0 else case.variants[::-1]
        for variant in order:
            if variant in outcome.failures:
                continue
            try:
                outcome.samples.setdefault(variant, []).append(_in_own_process(case, variant, quick))
            except RuntimeError as error:
                outcome.failures[variant] = str(error)
    return outcome


def results(case: Case, outcome: Outcome) -> Iterator[Result]:
    """Yield the figures of each row of a case."""
    for row in case.rows:
        bare, subject = outcome.medians("bare", row.key), outcome.medians(row.subject, row.key)
        if row.how == "value":
            figures = sorted(outcome.pooled(row.subject, row.key))
        elif row.how == "ratio":
            figures = sorted(mine / theirs for mine, theirs in zip(subject, bare, strict=False))
        else:
            figures = sorted(mine - theirs for mine, theirs in zip(subject, bare, strict=False))
        yield Result(
            row,
            bare=statistics.median(bare) if bare else None,
            subject=statistics.median(subject) if subject else None,
            value=statistics.median(figures) if figures else None,
            low=figures[0] if figures else None,
            # Of up to a hundred figures this is the largest.
            high=figures[min(len(figures) - 1, int(len(figures) * 0.99))] if figures else None,
            count=len(figures),
            failure=outcome.failures.get(row.subject, outcome.failures.get("bare", "")),
        )


def _in_own_process(case: Case, variant: str, quick: bool) -> Samples:
    command = [sys.executable, "-m", "tests.perf", "--measure", case.name, variant]
    if quick:
        command.append("--quick")
    # A session of its own: what a measurement that hangs has started is ended with it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took longer than {BOUND:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise RuntimeError((errors.strip() or f"exit status {process.returncode}").splitlines()[-1])
    samples: Samples = json.loads(output.splitlines()[-1])
    return samples
