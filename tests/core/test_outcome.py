"""From a worker's bytes to what the host's caller gets; never an exception in the host's thread."""

from __future__ import annotations

import pickle

import pytest

from poolwarden import errors
from poolwarden.core.outcome import decode
from poolwarden.core.tickets import Ticket
from poolwarden.policy import Policy
from poolwarden.worker.envelope import ERROR, EXIT, PARTS, UNREADABLE, UNSENDABLE, VALUE
from poolwarden.worker.frames import Frames
from poolwarden.worker.payload import FILE, SLOT, Store
from tests.core.fakes import CannotSendError, FakeHost


class Hostile:
    """Raises when it is unpickled, that is, in the parent."""

    def __init__(self, error):
        self.error = error

    def __setstate__(self, state):
        raise state["error"]


class TwoArgumentsError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path))
    yield store
    store.close()


@pytest.fixture
def host():
    return FakeHost()


@pytest.fixture
def ticket():
    ticket = Ticket(5, "key", "shop.fetch", Policy(timeout=3), 7, 0)
    ticket.sent = True
    ticket.count = 3
    return ticket


@pytest.fixture
def decoded(ticket, store, host):
    """Decodes an outcome whose content fits into a message."""
    return lambda kind, *content: decode(
        ticket, kind, pickle.dumps(content if kind != VALUE else content[0]), store, host
    )


def test_a_result(decoded):
    assert decoded(VALUE, [1, 2]) == (True, [1, 2])
    assert decoded(VALUE, ValueError) == (True, ValueError)


@pytest.mark.parametrize(
    ("size", "offset", "where"), [(10_000, 0, SLOT), (10_000, -1, FILE), (1 << 20, 0, FILE)]
)
def test_a_result_beside_the_pipe(ticket, store, host, size, offset, where):
    place, data = host.dumper.dump(bytes(size), store, "r5", offset)
    assert place == where
    assert decode(ticket, VALUE | place, data, store, host) == (True, bytes(size))


def test_an_exception_of_the_task_comes_with_the_workers_traceback(decoded):
    ok, error = decoded(ERROR, "builtins.KeyError", "the traceback", pickle.dumps(KeyError("missing", 3)))
    assert ok is False
    assert type(error) is KeyError
    assert error.args == ("missing", 3)
    assert str(error.__cause__) == "the traceback"


def test_an_exception_that_cannot_be_unpickled(decoded):
    pickled = pickle.dumps(TwoArgumentsError("one", "two"))
    ok, error = decoded(ERROR, "shop.TwoArgumentsError", "the traceback", pickled)
    assert (ok, type(error), error.direction) == (False, errors.PayloadError, "result")
    assert "of type shop.TwoArgumentsError" in str(error)
    assert str(error.__cause__) == "the traceback"
    assert error.may_have_run is True
    assert error.task.index == 7


@pytest.mark.parametrize(
    "raised", [ValueError("odd"), OSError(5, "io"), SystemExit(), KeyboardInterrupt()], ids=repr
)
def test_a_result_that_cannot_be_unpickled(decoded, raised):
    ok, error = decoded(VALUE, Hostile(raised))
    assert (ok, type(error), error.direction) == (False, errors.PayloadError, "result")
    assert f"of type {type(raised).__name__}" in str(error)
    assert "__setstate__" in str(error.__cause__)


@pytest.mark.parametrize("raised", [ValueError("odd"), SystemExit()], ids=repr)
def test_an_exception_that_raises_when_it_is_unpickled(decoded, raised):
    ok, error = decoded(ERROR, "a.Name", "the traceback", pickle.dumps(Hostile(raised)))
    assert (ok, type(error)) == (False, errors.PayloadError)


@pytest.mark.parametrize("kind", [VALUE, ERROR, UNSENDABLE, UNREADABLE, EXIT])
@pytest.mark.parametrize("data", [b"", b"garbage", b"cno_such_module\nname\n."])
def test_bytes_that_are_no_pickle_are_an_error_of_that_task(ticket, store, host, kind, data):
    ok, error = decode(ticket, kind, data, store, host)
    assert (ok, type(error), error.direction) == (False, errors.PayloadError, "result")


@pytest.mark.parametrize("where", [FILE, SLOT])
def test_an_outcome_that_is_gone_is_an_error_of_that_task(ticket, store, host, where):
    ok, error = decode(ticket, VALUE | where, bytes(12), store, host)
    assert (ok, type(error)) == (False, errors.PayloadError)


def test_what_could_not_be_pickled_is_the_hosts_own_error(decoded):
    ok, error = decoded(UNSENDABLE, "why", "what", "the traceback", pickle.dumps(TypeError("no")))
    assert (ok, type(error)) == (False, CannotSendError)
    assert error.args[:3] == ("why", "what", "the traceback")
    assert type(error.args[3]) is TypeError


@pytest.mark.parametrize(
    "pickled", [b"", b"garbage", pickle.dumps(Hostile(SystemExit()))], ids=["", "garbage", "exit"]
)
def test_a_reason_that_cannot_be_had_is_left_out(decoded, pickled):
    assert decoded(UNSENDABLE, "why", "what", "", pickled)[1].args == ("why", "what", "", None)


def test_a_call_that_could_not_be_unpickled(decoded):
    ok, error = decoded(UNREADABLE, "AttributeError", "the traceback")
    assert (ok, type(error), error.direction) == (False, errors.PayloadError, "call")
    assert error.may_have_run is False
    assert "AttributeError" in str(error)
    assert str(error.__cause__) == "the traceback"


def test_an_exit(decoded):
    ok, error = decoded(EXIT, "builtins.SystemExit: 3", "the traceback")
    assert (ok, type(error)) == (False, errors.TaskExitError)
    assert "raised builtins.SystemExit: 3" in str(error)
    assert str(error.__cause__) == "the traceback"


# -- chunks that were kept item by item -----------------------------------------------------------


def keep(store, results):
    frames = Frames(store, "p5")
    for item, data in results.items():
        frames.append(item, data)
    frames.close()


def test_the_results_of_a_kept_chunk_are_put_together(ticket, store, host):
    keep(store, {0: pickle.dumps("zero"), 2: pickle.dumps("two"), 1: pickle.dumps("one")})
    assert decode(ticket, PARTS, b"", store, host) == (True, ["zero", "one", "two"])


def test_errors_take_the_places_of_lost_items(ticket, store, host):
    keep(store, {0: pickle.dumps("zero"), 2: pickle.dumps("two")})
    ticket.policy = Policy(losses="return")
    ticket.holes = {1: errors.WorkerLostError("lost")}
    assert decode(ticket, PARTS, b"", store, host) == (True, ["zero", ticket.holes[1], "two"])


@pytest.mark.parametrize(
    "results",
    [{}, {0: pickle.dumps(0), 1: pickle.dumps(1)}, dict.fromkeys(range(3), b"garbage")],
    ids=["none", "one missing", "garbage"],
)
def test_a_kept_chunk_that_is_not_whole_is_an_error_of_that_task(ticket, store, host, results):
    if results:
        keep(store, results)
    ok, error = decode(ticket, PARTS, b"", store, host)
    assert (ok, type(error), error.direction) == (False, errors.PayloadError, "result")
