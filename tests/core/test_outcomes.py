"""From a worker's bytes to what the host's caller gets; never an exception in the host's thread."""

from __future__ import annotations

import pickle

import pytest

from poolwarden import errors
from poolwarden.core.outcomes import decode
from poolwarden.core.tickets import Ticket, Tickets
from poolwarden.policy import Policy
from poolwarden.worker.envelope import ERROR, EXIT, PARTS, UNREADABLE, UNSENDABLE, VALUE
from poolwarden.worker.payload import MEMORY, PIECES
from poolwarden.worker.results import Ring
from tests.core.fakes import CannotSendError, FakeHost
from tests.core.recorded import keep
from tests.worker.members import new_place


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
def host():
    return FakeHost()


@pytest.fixture
def tickets(memory, host):
    return Tickets(memory, host)


@pytest.fixture
def ticket():
    ticket = Ticket(5, "key", "shop.fetch", Policy(timeout=3), 7, 0)
    ticket.sent = True
    ticket.count = 3
    return ticket


@pytest.fixture
def decoded(ticket, tickets, host):
    """Decodes an outcome whose content fits into a message."""
    return lambda kind, *content: decode(
        ticket, kind, pickle.dumps(content if kind != VALUE else content[0]), tickets, host
    )


def test_a_result(decoded):
    assert decoded(VALUE, [1, 2]) == (True, [1, 2])
    assert decoded(VALUE, ValueError) == (True, ValueError)


@pytest.fixture
def ring(memory):
    """Takes the outcomes of a worker of the pool."""
    place = new_place(memory)
    return Ring(place.memory, place.number, place.record.cells)


@pytest.mark.parametrize("size", [10_000, 1 << 20])
def test_a_result_beside_the_pipe(ticket, tickets, ring, host, size):
    where, data = host.dumper.dump(bytes(size), ring, 5)
    assert where == MEMORY
    assert decode(ticket, VALUE | where, data, tickets, host) == (True, bytes(size))


def test_a_result_in_pieces(ticket, tickets, host):
    tickets.open[5] = ticket
    data = pickle.dumps(bytes(range(256)))
    for start in range(0, len(data), 100):
        tickets.add_piece(5, data[start : start + 100])
    size = len(data).to_bytes(8, "little")
    assert decode(ticket, VALUE | PIECES, size, tickets, host) == (True, bytes(range(256)))


def test_a_result_of_which_a_piece_is_missing_is_not_delivered(ticket, tickets, host):
    tickets.open[5] = ticket
    tickets.add_piece(5, pickle.dumps(b"whole")[:-1])
    ok, error = decode(ticket, VALUE | PIECES, (15).to_bytes(8, "little"), tickets, host)
    assert (ok, type(error)) == (False, errors.PayloadError)


def test_what_belongs_to_another_task_is_not_delivered(ticket, tickets, ring, host):
    _, data = host.dumper.dump(bytes(10_000), ring, 4)
    ok, error = decode(ticket, VALUE | MEMORY, data, tickets, host)
    assert (ok, type(error)) == (False, errors.PayloadError)


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
def test_bytes_that_are_no_pickle_are_an_error_of_that_task(ticket, tickets, host, kind, data):
    ok, error = decode(ticket, kind, data, tickets, host)
    assert (ok, type(error), error.direction) == (False, errors.PayloadError, "result")


@pytest.mark.parametrize("where", [MEMORY, PIECES])
def test_an_outcome_that_is_gone_is_an_error_of_that_task(ticket, tickets, host, where):
    ok, error = decode(ticket, VALUE | where, bytes(12), tickets, host)
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


def test_the_results_of_a_kept_chunk_are_put_together(ticket, tickets, memory, host):
    place = keep(new_place(memory), 5, {0: "zero", 2: "two", 1: "one"})
    assert decode(ticket, PARTS, place, tickets, host) == (True, ["zero", "one", "two"])


def test_errors_take_the_places_of_lost_items(ticket, tickets, memory, host):
    place = keep(new_place(memory), 5, {0: "zero", 2: "two"})
    ticket.policy = Policy(losses="return")
    ticket.holes = {1: errors.WorkerLostError("lost")}
    assert decode(ticket, PARTS, place, tickets, host) == (True, ["zero", ticket.holes[1], "two"])


@pytest.mark.parametrize(
    "results",
    [{}, {0: pickle.dumps(0), 1: pickle.dumps(1)}, dict.fromkeys(range(3), b"garbage")],
    ids=["none", "one missing", "garbage"],
)
def test_a_kept_chunk_that_is_not_whole_is_an_error_of_that_task(ticket, tickets, host, results):
    ticket.kept = results
    ok, error = decode(ticket, PARTS, b"", tickets, host)
    assert (ok, type(error), error.direction) == (False, errors.PayloadError, "result")
