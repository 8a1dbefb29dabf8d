"""What the end of a worker means: the table of `core.deaths`, row by row."""

from __future__ import annotations

import itertools

import pytest

from poolwarden.core.deaths import ADOPTED, FAILED_START, IDLE, Death, examine
from poolwarden.worker.ledger import DONE, FAILED, LEFT, READY, RUNNING, STARTING, UNBORN

PHASES = (UNBORN, STARTING, FAILED, READY, RUNNING, DONE, LEFT)


@pytest.mark.parametrize(
    ("phase", "facts", "death"),
    [
        (UNBORN, {}, Death(told=FAILED_START)),
        (UNBORN, {"older": True}, Death(told=ADOPTED, suspect=True)),
        (UNBORN, {"older": True, "told_to_leave": True}, Death()),
        (STARTING, {}, Death(told=FAILED_START)),
        (STARTING, {"older": True}, Death(told=FAILED_START)),
        (FAILED, {}, Death(told=FAILED_START)),
        (READY, {}, Death(told=IDLE, suspect=True)),
        (RUNNING, {}, Death(loses=True)),
        (RUNNING, {"stored": True}, Death(delivers=True)),
        (DONE, {}, Death(delivers=True, told=IDLE, suspect=True)),
        (LEFT, {"may_leave": True}, Death(delivers=True)),
        (LEFT, {}, Death(delivers=True, told=IDLE, suspect=True)),
    ],
)
def test_each_row(phase: int, facts: dict[str, bool], death: Death) -> None:
    assert examine(phase, **facts) == death


@pytest.mark.parametrize("phase", PHASES)
def test_a_lock_that_it_may_have_held_makes_each_suspect(phase: int) -> None:
    assert examine(phase, held_lock=True).suspect


@pytest.mark.parametrize("phase", PHASES)
def test_one_that_was_killed_for_a_repair_asks_for_no_other_and_is_not_told(phase: int) -> None:
    plain = examine(phase)
    death = examine(phase, for_repair=True, held_lock=True)
    assert death == Death(plain.delivers, plain.loses)


def test_a_task_is_never_delivered_and_lost_as_well() -> None:
    flags = ("older", "stored", "for_repair", "told_to_leave", "may_leave", "held_lock")
    for phase in PHASES:
        for values in itertools.product((False, True), repeat=len(flags)):
            death = examine(phase, **dict(zip(flags, values, strict=True)))
            assert not (death.delivers and death.loses)
            assert death.loses <= (phase == RUNNING)
