"""What a worker makes of a call: the kind of each outcome, and what the record says meanwhile."""

from __future__ import annotations

import contextlib
import pickle
import re
import signal
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest

from poolwarden.errors import TaskTimeoutError
from poolwarden.policy import limits
from poolwarden.worker import envelope, ledger, payload
from poolwarden.worker.envelope import (
    CHUNK,
    ERROR,
    EXIT,
    KEEP,
    PARTS,
    STAR,
    TIMED,
    TIMEOUT,
    UNREADABLE,
    UNSENDABLE,
    VALUE,
)
from poolwarden.worker.ledger import INLINE_MAX
from poolwarden.worker.payload import Dumper
from poolwarden.worker.picklers import make_pickler
from poolwarden.worker.results import NoPipeError, kept_results
from tests.contract.waiting import DEADLINE
from tests.worker.processes import running

#: Set by a test for the functions below, which pickle by name.
hook = None


def call_hook(*args):
    return hook(*args)


def add(a, b=0):
    return a + b


def fail(error):
    raise error


def fail_deeply(error):
    fail(error)


def make_and_raise(cls, *args):
    raise cls(*args)


class Unpicklable:
    def __reduce__(self):
        raise pickle.PicklingError("not this one")


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("cannot pickle this error")


class Unspeakable(Unpicklable):
    def __repr__(self):
        raise ZeroDivisionError


class UnspeakableError(UnpicklableError):
    def __str__(self):
        raise ZeroDivisionError

    __repr__ = __str__


class WhyUnpicklable:
    """Raises, when pickled, what cannot be pickled either."""

    def __reduce__(self):
        raise UnpicklableError


class OddExit(BaseException):
    def __str__(self):
        raise ZeroDivisionError


class ExitingError(UnpicklableError):
    def __repr__(self):
        raise SystemExit(3)


class ExitingExit(BaseException):
    def __str__(self):
        raise SystemExit(3)


class Hostile:
    """Raises when it is unpickled."""

    def __init__(self, error):
        self.error = error

    def __setstate__(self, state):
        raise state["error"]


class CallingHook:
    """Calls the hook when it is unpickled."""

    def __reduce__(self):
        return call_hook, ()


class Thing:
    """Can be referred to weakly, and pickled."""


@pytest.fixture
def run(member, memory):
    """Runs a call in this process as a worker does; gives back kind and content."""

    def run(function, *args, flags=0, first=0, ticket=5, data=None, **kwds):
        call = (function, args[0]) if flags & CHUNK else (function, args, kwds)
        where = 0
        if data is None:
            where, data = member.dumper.dump(call, memory.calls, ticket)
        answer = envelope.run(member.pool, ticket, flags | where, data, first)
        number, kind, outcome = answer
        assert number == ticket
        assert member.record.outcome() == answer
        assert member.record.cells[ledger.PHASE] == ledger.DONE
        assert member.in_task is False
        place = kind & payload.MEMORY
        assert len(outcome) <= INLINE_MAX
        kind -= place
        if kind == PARTS:
            return kind, None
        if place:
            return kind, payload.load(member.memory, outcome, ticket, pickle.loads)
        return kind, pickle.loads(outcome)

    return run


@pytest.fixture
def hooked(monkeypatch):
    """Sets what `call_hook` does."""
    return lambda function: monkeypatch.setattr(f"{__name__}.hook", function)


def results(kind_and_content):
    kind, content = kind_and_content
    assert kind == VALUE
    return content


# -- one call -------------------------------------------------------------------------------------


def test_a_result(run):
    assert results(run(add, 2, b=3)) == 5


@pytest.mark.parametrize("value", [None, True, 7, 1 << 70, 2.5])
def test_a_number_is_not_given_to_the_hosts_pickler(run, member, value):
    data = pickle.dumps((payload.itself, (value,), {}))
    member.dumper = None
    result = results(run(payload.itself, data=data))
    assert result == value
    assert type(result) is type(value)


def test_a_number_that_is_too_large_for_a_message_goes_where_its_size_belongs(run):
    value = 1 << (9 * INLINE_MAX)
    assert results(run(payload.itself, value)) == value


def test_an_exception_comes_with_its_traceback_as_text(run):
    kind, (name, text, pickled) = run(fail_deeply, ValueError("odd", 7))
    assert kind == ERROR
    assert name == "builtins.ValueError"
    assert re.findall(r"in (\w+)", text) == ["fail_deeply", "fail"]
    assert text.endswith("ValueError: ('odd', 7)\n")
    error = pickle.loads(pickled)
    assert type(error) is ValueError
    assert error.args == ("odd", 7)


def test_the_text_shows_what_an_exception_came_from(run, hooked):
    def chained():
        try:
            fail(KeyError("first"))
        except KeyError as error:
            raise ValueError("second") from error

    hooked(chained)
    _, (_, text, _) = run(call_hook)
    assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("ValueError: second")


def test_an_exception_that_is_too_large_for_a_message(run):
    kind, (_, text, pickled) = run(fail, ValueError("x" * 100_000))
    assert kind == ERROR
    assert len(text) > 100_000
    assert len(pickle.loads(pickled).args[0]) == 100_000


def test_a_result_that_cannot_be_pickled(run):
    kind, (why, what, text, pickled) = run(Unpicklable)
    assert kind == UNSENDABLE
    assert why == "PicklingError('not this one')"
    assert "Unpicklable object" in what
    assert text == ""
    assert type(pickle.loads(pickled)) is pickle.PicklingError


def test_an_exception_that_cannot_be_pickled(run):
    kind, (why, what, text, _) = run(make_and_raise, UnpicklableError)
    assert kind == UNSENDABLE
    assert why == "TypeError('cannot pickle this error')"
    assert what == "UnpicklableError()"
    assert "make_and_raise" in text


def test_a_reason_that_cannot_be_pickled_is_left_out(run):
    kind, (why, _, _, pickled) = run(WhyUnpicklable)
    assert kind == UNSENDABLE
    assert why == "UnpicklableError()"
    assert pickled == b""


@pytest.mark.parametrize("call", [(Unspeakable,), (make_and_raise, UnspeakableError)])
def test_a_repr_that_raises_is_said_to(run, call):
    kind, (_, what, _, _) = run(*call)
    assert kind == UNSENDABLE
    assert what == f"<{call[-1].__name__}: repr() raised ZeroDivisionError>"


@pytest.mark.parametrize(("error", "kind"), [(ExitingError, UNSENDABLE), (ExitingExit, EXIT)])
def test_a_repr_that_exits_is_an_outcome_too(run, error, kind):
    found, _ = run(make_and_raise, error)
    assert found == kind


@pytest.mark.parametrize(
    "error", [ValueError("odd"), OSError(28, "no room"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_a_call_that_cannot_be_unpickled(run, error):
    kind, (name, text) = run(add, Hostile(error))
    assert kind == UNREADABLE
    assert name == type(error).__name__
    assert re.findall(r"in (\w+)", text) == ["__setstate__"]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cposixpath\nno_such_name\n.", "AttributeError"),
        (b"cno_such_module\nname\n.", "ModuleNotFoundError"),
        (b"", "EOFError"),
        (b"garbage", "UnpicklingError"),
    ],
)
def test_a_call_of_what_is_not_there(run, data, name):
    kind, (found, text) = run(None, data=data)
    assert (kind, found) == (UNREADABLE, name)
    assert name in text


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (SystemExit(3), "builtins.SystemExit: 3"),
        (SystemExit(), "builtins.SystemExit"),
        (KeyboardInterrupt(), "builtins.KeyboardInterrupt"),
        (GeneratorExit("why"), "builtins.GeneratorExit: why"),
        (OddExit(), f"{__name__}.OddExit"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exit_is_an_outcome(run, error, description):
    kind, (found, text) = run(fail, error)
    assert (kind, found) == (EXIT, description)
    assert "in fail\n" in text


@pytest.mark.parametrize(("error", "kind"), [(SystemExit, EXIT), (ValueError, UNSENDABLE)])
def test_what_is_raised_while_a_result_is_pickled_is_an_outcome_too(run, hooked, error, kind):
    class Strange:
        def __reduce__(self):
            raise error("while pickling")

    hooked(Strange)
    found, content = run(call_hook)
    assert found == kind
    assert "while pickling" in content[0]


# -- soft timeouts --------------------------------------------------------------------------------


def soft_timeout(member):
    member.soft_error = TaskTimeoutError("time is over")
    raise member.soft_error


def test_a_soft_timeout_that_reaches_the_top_is_a_timeout(run, member, hooked):
    hooked(lambda: soft_timeout(member))
    kind, (text, item, _) = run(call_hook)
    assert (kind, item) == (TIMEOUT, 0)
    assert "in soft_timeout\n" in text
    assert member.soft_error is None


def test_a_soft_timeout_below_long_paths_still_shows_the_task(run, member, hooked):
    source = "def deep(): soft_timeout(member)\ndef task_below_long_paths(): deep()\n"
    names = {"soft_timeout": soft_timeout, "member": member}
    exec(compile(source, "/very" * 180 + "/long.py", "exec"), names)
    hooked(names["task_below_long_paths"])
    _, (text, _, _) = run(call_hook)
    assert "in task_below_long_paths\n" in text


@pytest.mark.parametrize("flags", [CHUNK, CHUNK | TIMED, CHUNK | KEEP])
def test_a_soft_timeout_in_a_chunk_names_the_item_and_is_small(run, member, hooked, flags):
    def item(number):
        if number == 2:
            member.soft_error = TaskTimeoutError("\N{SNOWMAN}" * 100_000)
            raise member.soft_error

    hooked(item)
    kind, (text, number, _) = run(call_hook, (0, 1, 2, 3), flags=flags)
    assert (kind, number) == (TIMEOUT, 2)
    assert text.rstrip().endswith("\N{SNOWMAN}")


def test_a_soft_timeout_that_the_task_handles_is_its_own_affair(run, member, hooked):
    def handled():
        try:
            soft_timeout(member)
        except TaskTimeoutError:
            return "partial result"

    hooked(handled)
    assert results(run(call_hook)) == "partial result"


def test_nothing_is_kept_of_a_task_that_handles_its_soft_timeout(run, member, hooked):
    made = []

    def handled():
        thing = Thing()
        made.append(weakref.ref(thing))
        with contextlib.suppress(TaskTimeoutError):
            soft_timeout(member)

    hooked(handled)
    run(call_hook)
    assert made[0]() is None


def test_a_soft_timeout_that_becomes_another_error_is_that_error(run, member, hooked):
    def translated():
        try:
            soft_timeout(member)
        except TaskTimeoutError as error:
            raise ValueError("too slow") from error

    hooked(translated)
    kind, (name, _, _) = run(call_hook)
    assert (kind, name) == (ERROR, "builtins.ValueError")


def test_a_timeout_error_of_the_task_itself_is_an_error(run):
    kind, (name, _, _) = run(make_and_raise, TaskTimeoutError, "of a pool inside the task")
    assert (kind, name) == (ERROR, "poolwarden.errors.TaskTimeoutError")


# -- chunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, TIMED])
@pytest.mark.parametrize("count", [0, 1, 100, 10_001])
def test_a_chunk(run, flags, count):
    assert results(run(str, tuple(range(count)), flags=CHUNK | flags)) == list(map(str, range(count)))


@pytest.mark.parametrize("flags", [0, TIMED])
def test_a_star_chunk(run, flags):
    items = ((1,), (1, 2), ([1], [2]))
    assert results(run(add, items, flags=CHUNK | STAR | flags)) == [1, 3, [1, 2]]


@pytest.mark.parametrize("flags", [0, TIMED, KEEP, TIMED | KEEP])
@pytest.mark.parametrize("star", [0, STAR])
def test_the_record_names_the_item_that_runs(run, member, hooked, flags, star):
    seen = []

    def look(item):
        seen.append((item, member.record.cells[ledger.ITEM], member.record.cells[ledger.PHASE]))

    hooked(look)
    items = tuple((item,) for item in range(4)) if star else tuple(range(4))
    run(call_hook, items, flags=CHUNK | flags | star)
    assert seen == [(item, item, ledger.RUNNING) for item in range(4)]


@pytest.mark.parametrize("flags", [TIMED, KEEP])
def test_the_start_of_each_item_is_recorded(run, member, hooked, flags):
    seen = []
    hooked(lambda item: seen.append(member.record.cells[ledger.STARTED]))
    run(call_hook, tuple(range(4)), flags=CHUNK | flags)
    assert len(set(seen)) == 4
    assert seen == sorted(seen)


def test_an_untimed_chunk_keeps_the_start_of_the_whole(run, member, hooked):
    seen = []
    hooked(lambda item: seen.append(member.record.cells[ledger.STARTED]))
    run(call_hook, tuple(range(4)), flags=CHUNK)
    assert len(set(seen)) == 1


@pytest.mark.parametrize("flags", [0, TIMED, KEEP])
def test_a_chunk_ends_with_the_first_exception(run, member, hooked, flags):
    seen = []

    def fail_in_second(item):
        seen.append(item)
        if item == 1:
            raise ValueError(item)

    hooked(fail_in_second)
    kind, (name, _, _) = run(call_hook, (0, 1, 2), flags=CHUNK | flags)
    assert (kind, name, seen) == (ERROR, "builtins.ValueError", [0, 1])
    assert member.record.cells[ledger.ITEM] == 1


def kept(member, ticket=5):
    """Return what the worker has kept of a chunk, as the parent reads it after a death."""
    cells = member.record.cells
    assert cells[ledger.KEEP_TICKET] == ticket
    start, end = cells[ledger.KEEP_START], cells[ledger.KEEP_END]
    found = kept_results(member.memory, start, end - start)
    return {item: pickle.loads(data) for item, data in found.items()}


def test_a_kept_chunk_has_every_result_where_the_parent_finds_it(run, member):
    assert run(str, (1, 2, 3), flags=CHUNK | KEEP) == (PARTS, None)
    assert kept(member) == {0: "1", 1: "2", 2: "3"}


def test_a_kept_star_chunk(run, member):
    run(add, ((1, 1), (2, 2)), flags=CHUNK | STAR | KEEP)
    assert kept(member) == {0: 2, 1: 4}


def test_a_result_is_kept_before_the_next_item_begins(run, member, hooked):
    seen = []
    hooked(lambda item: seen.append(sorted(kept(member))))
    run(call_hook, (0, 1, 2), flags=CHUNK | KEEP)
    assert seen == [[], [0], [0, 1]]


def test_a_kept_chunk_that_has_nothing_left_to_run(run, member):
    assert run(fail, (1, 2), flags=CHUNK | KEEP, first=2) == (PARTS, None)


def test_a_kept_chunk_fails_with_a_result_that_cannot_be_pickled(run, member, hooked):
    hooked(lambda item: Unpicklable() if item else "fine")
    kind, (why, _, _, _) = run(call_hook, (0, 1, 2), flags=CHUNK | KEEP)
    assert kind == UNSENDABLE
    assert "not this one" in why
    # The chunk has failed as a whole, and gives its room back.
    assert member.record.cells[ledger.RING_PUT] == 0


def test_a_function_may_change_its_items(run):
    assert results(run(list.pop, ([1, 2], [3, 4]), flags=CHUNK)) == [2, 4]


# -- our own frames -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "args", "flags"),
    [
        (fail, (ValueError(),), 0),
        (limits(fail, timeout=1), (ValueError(),), 0),
        (fail, ((ValueError(),),), CHUNK),
        (fail, (((ValueError(),),),), CHUNK | STAR),
        (limits(fail, timeout=1), (((ValueError(),),),), CHUNK | STAR),
        (fail, ((ValueError(),),), CHUNK | TIMED),
        (fail, ((ValueError(),),), CHUNK | KEEP),
        (fail, (((ValueError(),),),), CHUNK | STAR | KEEP),
        (fail, (SystemExit(),), 0),
        (add, (Hostile(ValueError()),), 0),
    ],
)
def test_our_own_frames_are_not_in_a_traceback(run, function, args, flags):
    kind, content = run(function, *args, flags=flags)
    text = content[1]
    frames = re.findall(r'File "(.*)", line \d+, in (\w+)', text)
    assert frames == [(__file__, "__setstate__" if kind == UNREADABLE else "fail")]


def dump_by_function(obj, file, reducers=None):
    file.write(pickle.dumps(obj))


class ExitingWhenPickled:
    def __reduce__(self):
        raise SystemExit(3)


@pytest.mark.parametrize("flags", [0, CHUNK, CHUNK | KEEP])
@pytest.mark.parametrize("host", [ForkingPickler, dump_by_function])
def test_our_own_frames_are_not_in_the_traceback_of_an_exit_from_pickling(run, member, hooked, host, flags):
    """It is no result that cannot be sent, which would come without a traceback."""
    hooked(lambda _: ExitingWhenPickled())
    data = member.dumper.dumps((call_hook, ("item",)) if flags & CHUNK else (call_hook, ("item",), {}))
    member.dumper = Dumper(make_pickler(host, None))
    kind, (_, text) = run(call_hook, ("item",), flags=flags, data=data)
    assert kind == EXIT
    names = re.findall(r'File ".*", line \d+, in (\w+)', text)
    assert names == [*(["dump_by_function"] if host is dump_by_function else []), "__reduce__"]


# -- what the record says -------------------------------------------------------------------------


class Watched:
    """Cells that remember in which order they were stored into."""

    def __init__(self, cells):
        self.cells = cells
        self.stores = []

    def __getitem__(self, cell):
        return self.cells[cell]

    def __setitem__(self, cell, value):
        self.stores.append((cell, value))
        self.cells[cell] = value


@pytest.mark.parametrize("flags", [0, CHUNK, CHUNK | TIMED, CHUNK | KEEP])
def test_a_phase_is_stored_after_all_that_it_stands_for(run, member, hooked, flags):
    """Its worker may be killed between any two stores, and the record has to be true then."""
    real = member.record.cells
    watched = member.record.cells = Watched(real)
    hooked(lambda *args: watched.stores.append("call"))
    try:
        run(call_hook, (0,), flags=flags, ticket=7)
    finally:
        member.record.cells = real
    stores = watched.stores
    running = stores.index((ledger.PHASE, ledger.RUNNING))
    assert {cell for cell, _ in stores[:running]} == {ledger.TICKET, ledger.ITEM, ledger.STARTED}
    assert running < stores.index("call") < stores.index((ledger.OUT_TICKET, 7))
    assert stores[-1] == (ledger.PHASE, ledger.DONE)
    assert sum(cell == ledger.PHASE for cell, _ in filter(lambda store: store != "call", stores)) == 2


def test_the_record_is_written_before_the_call_is_unpickled(run, member, hooked):
    seen = []

    hooked(lambda: seen.append(list(member.record.cells[:3])))
    run(str, CallingHook(), ticket=9)
    assert seen == [[ledger.RUNNING, 9, 0]]


def test_a_task_is_interrupted_only_inside_user_code(run, member, hooked):
    seen = []

    class Result:
        def __reduce__(self):
            seen.append(member.in_task)
            return str, ()

    def task(*args):
        seen.append(member.in_task)
        return Result()

    hooked(task)
    run(call_hook)
    run(call_hook, (0, 1), flags=CHUNK | KEEP)
    assert seen == [True, False] * 3


@pytest.mark.parametrize(
    "function",
    [
        lambda thing: None,
        lambda thing: thing,
        lambda thing: fail(ValueError()),
        lambda thing: fail(ValueError(thing)),
        lambda thing: make_and_raise(SystemExit, thing),
    ],
    ids=["dropped", "result", "local", "argument", "exit"],
)
def test_nothing_of_the_task_is_kept_when_it_has_ended(run, hooked, function):
    made = []

    def task():
        thing = Thing()
        made.append(weakref.ref(thing))
        return function(thing)

    hooked(task)
    run(call_hook)
    assert made[0]() is None


# -- joining, leaving -----------------------------------------------------------------------------


def test_a_worker_told_to_retire_leaves_after_its_task_with_the_outcome_stored(memory):
    def work():
        member = envelope.join(memory.name)
        member.record.cells[ledger.RETIRE] = ledger.LEAVE
        envelope.run(memory.name, 5, 0, pickle.dumps((add, (1,), {"b": 2})))
        signal.pause()

    with running(work, memory=memory) as worker:
        worker.join(DEADLINE)
        assert worker.exitcode == 0
        record = memory.place_of(worker).record
    assert record.cells[ledger.PHASE] == ledger.LEFT
    number, kind, data = record.outcome()
    assert (number, kind, pickle.loads(data)) == (5, VALUE, 3)



# -- what finds no room ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [INLINE_MAX, 1 << 20])
def test_a_result_that_finds_no_room_is_sent_in_pieces(member, size):
    member.record.cells[ledger.RING_LIMIT] = 0
    data = pickle.dumps((bytes, (size,), {}))
    _, kind, outcome = envelope.run(member.pool, 5, 0, data)
    assert kind == VALUE | payload.PIECES
    [(what, ticket, sent)] = member._pipe.told
    assert (what, ticket, pickle.loads(sent)) == ("pieces", 5, bytes(size))
    assert int.from_bytes(outcome, "little") == len(sent)


def test_kept_results_that_find_no_room_are_told(member):
    member.record.cells[ledger.RING_LIMIT] = 0
    data = pickle.dumps((str, ("zero", "one")))
    assert envelope.run(member.pool, 5, CHUNK | KEEP, data)[1] == PARTS
    told = [(what, item, pickle.loads(result)) for what, _, item, result in member._pipe.told]
    assert told == [(payload.KEPT, 0, "zero"), (payload.KEPT, 1, "one")]


def test_a_worker_without_memory_tells_of_each_task_before_it_begins(member, hooked):
    member.memory = member.ring = None
    hooked(lambda: member._pipe.told[:])
    _, kind, outcome = envelope.run(member.pool, 5, 0, pickle.dumps((call_hook, (), {})))
    assert (kind, pickle.loads(outcome)) == (VALUE, [(payload.BEGAN, member.identity, 5)])


def test_without_a_pipe_it_does_not_begin(member, hooked):
    class NoPipe:
        def tell(self, *_):
            raise NoPipeError("none is known")

    ran = []
    hooked(lambda: ran.append(1))
    member.memory = member.ring = None
    member._pipe = NoPipe()
    _, kind, outcome = envelope.run(member.pool, 5, 0, pickle.dumps((call_hook, (), {})))
    assert (kind, ran) == (ERROR, [])
    assert "none is known" in str(pickle.loads(pickle.loads(outcome)[2]))


def test_a_call_in_memory_that_is_another_tasks_is_not_run(member, memory):
    where, data = member.dumper.dump((add, (b"a" * 9_000, b"b"), {}), memory.calls, 4)
    _, kind, outcome = envelope.run(member.pool, 5, where, data)
    assert kind == UNREADABLE
    assert pickle.loads(outcome)[0] == "MismatchError"


def test_an_interrupted_task_gives_its_room_back(member, monkeypatch):
    def put_and_interrupt(*_):
        member.ring.put(5, [b"x" * 9_000], 9_000)
        raise KeyboardInterrupt

    monkeypatch.setattr(envelope, "_execute", put_and_interrupt)
    assert envelope.run(member.pool, 5, 0, b"")[1] == EXIT
    assert member.record.cells[ledger.RING_PUT] == 0
