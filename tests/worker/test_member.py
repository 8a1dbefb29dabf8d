"""A worker's membership, in real processes: its record from birth to its end."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import stat
import sys
from types import SimpleNamespace

import pytest

from poolwarden.core.workers import Worker
from poolwarden.worker import ledger
from poolwarden.worker.ledger import INLINE_MAX, Record
from poolwarden.worker.member import HOST_FILE, REDUCERS_FILE, birth, join, leave
from tests.contract.waiting import DEADLINE, eventually
from tests.worker.places import fill
from tests.worker.processes import answer_of, exit_code_of, running, wait_for_ever

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its workers")


def phase_of(folder, pid):
    """Return the phase in a record, as anybody reads it."""
    record = Record(f"{folder}/{pid}")
    phase = record.cells[ledger.PHASE]
    record.close()
    return phase


def outcome_of(folder, pid):
    record = Record(f"{folder}/{pid}")
    outcome = record.outcome()
    record.close()
    return outcome


def test_who_joins_has_its_files_and_says_nothing_yet(folder):
    def look():
        member = join(folder)
        assert join(folder) is member
        return os.getpid(), list(member.record.cells[:4]), member.in_task

    pid, cells, in_task = answer_of(look)
    assert cells == [ledger.UNBORN, 0, 0, 0]
    assert in_task is False
    for name in (str(pid), f"{pid}.stack", "slots"):
        assert stat.S_IMODE(os.stat(f"{folder}/{name}").st_mode) == 0o600


def test_a_process_may_be_a_member_of_two_pools(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / HOST_FILE).write_text("pickle:Pickler")

    def look():
        first, second = join(folder), join(str(tmp_path / "other"))
        second.record.cells[ledger.TICKET] = 3
        return first.record.cells[ledger.TICKET], second.record.cells[ledger.ARMED]

    ticket, armed = answer_of(look)
    assert ticket == 0
    assert armed == ledger.ARMED_SOFT | ledger.ARMED_STACK


def test_the_pickler_is_the_one_that_the_folder_names(folder, tmp_path):
    (tmp_path / "pool" / HOST_FILE).write_text("tests.worker.test_member:Renaming")
    assert answer_of(lambda: join(folder).dumper.dumps("anything")) == b"renamed"


@pytest.mark.parametrize(("given", "found"), [(None, "of the folder"), ("given", "given")])
def test_a_hosts_function_is_given_the_reducers_for_results(folder, tmp_path, given, found):
    """Those of the folder are for workers that are older than the guard."""
    (tmp_path / "pool" / HOST_FILE).write_text("tests.worker.test_member:dump_reducers")
    (tmp_path / "pool" / REDUCERS_FILE).write_bytes(pickle.dumps("of the folder"))
    assert answer_of(lambda: join(folder, given).dumper.dumps("anything")) == found.encode()


def dump_reducers(obj, file, reducers=None):
    file.write(reducers.encode())


class Renaming:
    def __init__(self, file):
        self.file = file

    def dump(self, obj):
        self.file.write(b"renamed")


def test_a_folder_that_is_gone_is_an_error(tmp_path):
    def look():
        with pytest.raises(FileNotFoundError):
            join(str(tmp_path / "gone"))

    answer_of(look)


def test_a_worker_may_join_once_what_hindered_it_is_gone(folder):
    def look():
        os.rename(f"{folder}/{HOST_FILE}", f"{folder}/away")
        with pytest.raises(FileNotFoundError):
            join(folder)
        os.rename(f"{folder}/away", f"{folder}/{HOST_FILE}")
        return len(join(folder).record.cells)

    assert answer_of(look) > ledger.PHASE


def test_what_a_dead_worker_with_the_same_pid_left_is_not_inherited(folder):
    def look():
        left = Record(f"{folder}/{os.getpid()}", create=True)
        left.cells[ledger.PHASE] = ledger.DONE
        left.store_outcome(4, 0, b"its last outcome")
        member = join(folder)
        return list(member.record.cells[:3]), member.record.outcome(), left.cells[ledger.PHASE]

    cells, outcome, old = answer_of(look)
    assert cells == [ledger.UNBORN, 0, 0]
    assert outcome == (0, 0, b"")
    assert old == ledger.DONE


def test_what_a_member_forks_is_no_member(folder):
    def fork():
        member = join(folder)
        member.record.cells[ledger.PHASE] = ledger.RUNNING
        answer_of(lambda: join(folder).record.cells.__setitem__(ledger.TICKET, 9))
        return os.getpid(), list(member.record.cells[:2])

    pid, cells = answer_of(fork)
    assert cells == [ledger.RUNNING, 0]
    records = [name for name in os.listdir(folder) if name.isdigit()]
    assert len(records) == 2
    assert str(pid) in records


# -- birth ----------------------------------------------------------------------------------------


def test_a_worker_without_an_initializer_is_born_ready(folder):
    def look():
        birth(folder, None, ())
        return phase_of(folder, os.getpid())

    assert answer_of(look) == ledger.READY


def test_a_worker_is_starting_in_its_initializer_and_ready_after_it(folder):
    seen = []

    def initializer(*args):
        seen.append((args, phase_of(folder, os.getpid())))

    def look():
        birth(folder, initializer, (1, "two"))
        return seen, phase_of(folder, os.getpid())

    assert answer_of(look) == ([((1, "two"), ledger.STARTING)], ledger.READY)


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_an_initializer_that_raises_leaves_its_traceback(folder, error):
    def initializer():
        raise error

    def look():
        with pytest.raises(type(error)) as caught:
            birth(folder, initializer, ())
        assert caught.value is error
        return os.getpid()

    def read(pid):
        return phase_of(folder, pid), outcome_of(folder, pid)

    # Read while it lives: a member that ends in an orderly way says LEFT.
    phase, (ticket, _, text) = answer_of(lambda: read(look()))
    assert phase == ledger.FAILED
    assert ticket == 0
    assert text.startswith(b"Traceback")
    assert b"in initializer\n" in text
    assert repr(error).partition("(")[0].encode() in text.splitlines()[-1]


def test_of_a_traceback_that_is_too_long_the_end_is_kept(folder):
    def initializer():
        raise ValueError("x" * INLINE_MAX + "\udc80 the end")

    def look():
        with pytest.raises(ValueError, match="the end"):
            birth(folder, initializer, ())
        return outcome_of(folder, os.getpid())[2]

    text = answer_of(look)
    assert len(text) == INLINE_MAX
    assert text.endswith(b"? the end\n")


def test_without_a_folder_the_initializer_runs_all_the_same(tmp_path):
    seen = []

    def look():
        birth(str(tmp_path / "gone"), seen.append, ("ran",))
        birth(str(tmp_path / "gone"), None, ())
        return seen

    assert answer_of(look) == ["ran"]


# -- full places ----------------------------------------------------------------------------------


@pytest.fixture
def full(small_place):
    """A pool's folder with no room for a record."""
    place = small_place(8)
    with open(f"{place}/{HOST_FILE}", "w") as file:
        file.write("multiprocessing.reduction:ForkingPickler")
    fill(place)
    return place


def test_with_the_first_place_full_the_record_is_in_the_second_and_found(full, tmp_path):
    (tmp_path / "spare").mkdir()
    os.symlink(tmp_path / "spare", f"{full}/spill")

    def look():
        member = join(full)
        member.record.cells[ledger.TICKET] = 4
        worker = Worker(SimpleNamespace(pid=os.getpid()), full, older=False)
        seen = worker.snapshot()
        worker.close()
        return os.getpid(), (seen.phase, seen.ticket), os.listdir(tmp_path / "spare")

    pid, seen, left = answer_of(look)
    assert seen == (ledger.UNBORN, 4)
    assert left == []  # closing the parent's side has removed it
    assert str(pid) not in os.listdir(full)


def test_with_all_places_full_joining_is_an_error_and_leaves_no_record(full):
    os.symlink(full, f"{full}/spill")

    def look():
        with pytest.raises(OSError, match="No space left") as caught:
            join(full)
        return caught.value.errno, [name for name in os.listdir(full) if name.isdigit()]

    assert answer_of(look) == (errno.ENOSPC, [])


def test_with_the_only_place_full_joining_says_that_there_is_no_room(full):
    def look():
        with pytest.raises(OSError, match="No space left"):
            join(full)

    answer_of(look)


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [
        pytest.param(lambda member: None, 0, id="returns"),
        pytest.param(lambda member: sys.exit(3), 3, id="exits"),
        pytest.param(leave, 0, id="leaves"),
    ],
)
def test_an_orderly_end_says_so(folder, end, exit_code):
    def work():
        member = join(folder)
        member.record.cells[ledger.PHASE] = ledger.DONE
        os.rename(f"{folder}/{os.getpid()}", f"{folder}/record")
        end(member)

    assert exit_code_of(work) == exit_code
    assert phase_of(folder, "record") == ledger.LEFT


@pytest.mark.parametrize(
    ("phase", "left"),
    [("STARTING", False), ("FAILED", False), ("READY", True), ("RUNNING", False), ("DONE", True)],
)
def test_an_orderly_end_hides_no_task_and_no_failed_start(folder, phase, left):
    """As of a handler of the user's that raises SystemExit wherever the worker is."""

    def work():
        member = join(folder)
        member.record.cells[ledger.PHASE] = getattr(ledger, phase)
        os.rename(f"{folder}/{os.getpid()}", f"{folder}/record")
        sys.exit(1)

    assert exit_code_of(work) == 1
    assert phase_of(folder, "record") == (ledger.LEFT if left else getattr(ledger, phase))


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [
        pytest.param(lambda: os._exit(0), 0, id="_exit"),
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGKILL), -9, id="SIGKILL"),
    ],
)
def test_any_other_end_leaves_the_phase_as_it_was(folder, end, exit_code):
    def work():
        member = join(folder)
        member.record.cells[ledger.PHASE] = ledger.RUNNING
        os.rename(f"{folder}/{os.getpid()}", f"{folder}/record")
        end()

    assert exit_code_of(work) == exit_code
    assert phase_of(folder, "record") == ledger.RUNNING


def test_a_member_lives_on_when_its_folder_is_removed(folder):
    """The pool has ended, or gave the worker up; that must not be a crash."""

    def work():
        member = join(folder)
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
        member.record.cells[ledger.PHASE] = ledger.RUNNING
        member.record.store_outcome(1, 0, b"x" * INLINE_MAX)
        return join(folder) is member

    assert answer_of(work) is True


def test_a_parent_reads_the_record_of_a_worker_that_was_killed(folder):
    def work():
        cells = join(folder).record.cells
        cells[ledger.TICKET] = 12
        cells[ledger.PHASE] = ledger.RUNNING
        wait_for_ever()

    with running(work) as process:
        worker = Worker(process, folder, older=False)
        eventually(lambda: worker.snapshot().phase == ledger.RUNNING, "the worker running")
        process.kill()
        process.join(DEADLINE)
        assert worker.snapshot().ticket == 12
        worker.close()
