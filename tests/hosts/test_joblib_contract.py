"""joblib over loky: the fault table, as far as calls of ``Parallel`` have it.

`test_loky` has what concerns the executor alone, such as idle workers; here is
what goes through a batch.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.contract.base import ContractBase
from tests.contract.deaths import ItemDies, Retries, RunningTaskDies
from tests.contract.hangs import LimitsOfATask, SoftTimeout, TaskNeverEnds, TimeoutCounts
from tests.contract.healthy import NothingChanges
from tests.contract.payloads import (
    CallCannotBeUnpickled,
    CannotBePickled,
    OutcomeCannotBeUnpickled,
    TaskExits,
)
from tests.contract.surroundings import Interrupts, ParentKilled
from tests.hosts.bind_joblib import BindJoblib

joblib = pytest.importorskip("joblib")

VERSION = tuple(int(part) for part in joblib.__version__.split(".")[:2])


@pytest.fixture(scope="module", autouse=True)
def warm_joblib(warm: None) -> None:
    """Start what joblib keeps for the whole process."""
    host = BindJoblib()
    host.close(host.make_pool())


class TestJoblib(
    NothingChanges,
    RunningTaskDies,
    ItemDies,
    Retries,
    TaskExits,
    CallCannotBeUnpickled,
    OutcomeCannotBeUnpickled,
    CannotBePickled,
    TaskNeverEnds,
    TimeoutCounts,
    SoftTimeout,
    LimitsOfATask,
    ParentKilled,
    Interrupts,
    ContractBase,
):
    """What is left out cannot be asked of joblib: it pickles lambdas, has no
    limit of tasks for a worker, and with one worker it runs tasks in the
    calling process.
    """

    binding = BindJoblib
    variations: ClassVar[int] = 1

    test_the_error_is_the_one_of_the_bare_host = None
    test_an_argument_that_cannot_be_pickled_in_every_way = None
    test_workers_are_recycled_as_asked_and_nothing_is_lost = None
    test_a_soft_timeout_strikes_one_item_and_the_worker_goes_on = None
    test_idle_time_does_not_count = None
    test_an_exit_is_an_error_and_the_worker_lives = None
    test_an_interrupted_task_can_clean_up_and_the_worker_lives = None
    if VERSION < (1, 5):  # no options for workers
        test_initializer_arguments_reach_every_worker = None
        test_ctrl_c_while_the_pool_is_idle = None
