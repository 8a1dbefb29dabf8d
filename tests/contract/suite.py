"""The whole contract as one class, for a host's test file to inherit."""

from __future__ import annotations

from tests.contract.deaths import ItemDies, ManyDie, Retries, RunningTaskDies
from tests.contract.ending import AnswersAfterTheEnd, OnEventRaises, PoolDropped, PoolEnds
from tests.contract.hangs import LimitsOfATask, SoftTimeout, TaskNeverEnds, TimeoutCounts
from tests.contract.healthy import NothingChanges
from tests.contract.idle_deaths import DeathOnTheWay, IdleWorkerDies, RandomDeaths
from tests.contract.payloads import (
    CallCannotBeUnpickled,
    CannotBePickled,
    OutcomeCannotBeUnpickled,
    TaskExits,
)
from tests.contract.starting import InitializerFails
from tests.contract.surroundings import (
    Grandchildren,
    InterpreterExit,
    Interrupts,
    OneAfterAnother,
    OutOfMemory,
    ParentKilled,
    Signals,
)


class PoolContract(
    NothingChanges,
    RunningTaskDies,
    ItemDies,
    ManyDie,
    Retries,
    IdleWorkerDies,
    DeathOnTheWay,
    RandomDeaths,
    TaskExits,
    CallCannotBeUnpickled,
    OutcomeCannotBeUnpickled,
    CannotBePickled,
    InitializerFails,
    TaskNeverEnds,
    TimeoutCounts,
    SoftTimeout,
    LimitsOfATask,
    OnEventRaises,
    PoolEnds,
    AnswersAfterTheEnd,
    PoolDropped,
    OneAfterAnother,
    OutOfMemory,
    ParentKilled,
    Grandchildren,
    Signals,
    Interrupts,
    InterpreterExit,
):
    """Behaviour every host owes its users: subclass it and set `binding`."""


def _check_names() -> None:
    """Refuse two themes with a test of one name: the second would never run."""
    seen: dict[str, type] = {}
    for theme in PoolContract.__mro__[1:]:
        for name in vars(theme):
            if name.startswith("test_"):
                assert name not in seen, f"{name} is in {theme.__name__} and in {seen[name].__name__}"
                seen[name] = theme


_check_names()
