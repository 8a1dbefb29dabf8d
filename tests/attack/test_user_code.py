"""Code of the user's runs in threads of the host's and of ours, and does what it likes there.

What is tried: callables whose attributes raise (lazy proxies out of their
context), ``__class__`` among them; exits in ``__reduce__``, in an iterable, in
the ``__len__`` of a chunk's items; an iterable that is shorter than its
``len()``; callbacks, of results and of futures, that raise or exit while a
handler of the logger blocks, raises or exits; limits that are none. On every
way of submitting.

What must hold: that task fails, all others are answered, and the pool is usable
and ends: no thread of the host's or of ours ends or blocks.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
from pathlib import Path

import pytest

from poolwarden import TaskExitError, WorkerLostError, limits
from poolwarden.testing import kill_self, only_for
from tests.contract.base import ContractBase
from tests.contract.binding import Answers
from tests.contract.tasks import square
from tests.contract.waiting import DEADLINE, eventually
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_multiprocess import BindMultiprocess
from tests.hosts.bind_pool import BindPool

# Types: an error that was raised keeps its frames, and with them a pool.
RAISED = [RuntimeError, SystemExit, KeyboardInterrupt]


class Lazy:
    """A callable that raises whatever it is asked for, once it is `armed`, but for what pickling needs."""

    def __init__(self, error):
        self.error = error

    def __getattribute__(self, name):
        if name in ("error", "__reduce_ex__", "__reduce__"):
            return object.__getattribute__(self, name)
        raise object.__getattribute__(self, "error")("out of its context")

    def __reduce__(self):
        return _square, ()

    def __call__(self, value):
        raise AssertionError("it is another one in the worker")


def _square():
    return square


class Unpicklable:
    """An argument that exits while it is pickled."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error(3)


def exits_at(count, error):
    yield from range(count)
    raise error(3)


class Short:
    """Fewer items than it says."""

    def __init__(self, error=None):
        self.error = error

    def __len__(self):
        return 6

    def __iter__(self):
        yield from range(3)
        if self.error is not None:
            raise self.error(3)


@pytest.mark.parametrize("raised", RAISED, ids=lambda kind: getattr(kind, "__name__", "none"))
class UserCode(ContractBase):
    """What holds on every host."""

    def test_a_callable_whose_attributes_raise(self, make_pool, host, way, raised):
        answers = way.call(make_pool(), Lazy(raised), [1, 2, 3])
        if host.package == "loky":
            # cloudpickle asks for its attributes, too: the call cannot be pickled there.
            assert answers.errors
            assert not answers.values
        else:
            assert not answers.errors
            assert sorted(answers.values) == [1, 4, 9]

    def test_an_argument_that_raises_while_it_is_pickled(self, make_pool, host, way, raised):
        pool = make_pool()
        answers = way.call(pool, square, [1, Unpicklable(raised), 3])
        assert answers.errors
        if not issubclass(raised, Exception):
            assert any(isinstance(error, TaskExitError) for error in answers.errors), answers.errors
        assert set(answers.values) <= {1, 9}


class BadLimits(ContractBase):
    """Limits that were checked when they were made, and changed behind that."""

    @pytest.mark.parametrize("overrides", [{"timeout": "soon"}, {"no_such": 1}, None], ids=str)
    def test_a_bad_value_fails_the_task_and_nothing_else(self, make_pool, host, way, overrides):
        pool, limited = make_pool(), limits(square, timeout=30)
        limited.overrides = overrides
        answers = way.call(pool, limited, [1, 2, 3])
        assert answers.errors
        assert not answers.values
        assert way.call(pool, square, [1, 2, 3]).values == [1, 4, 9]


class LossesExit(ContractBase):
    """``losses=`` with a callable that exits while the log stands still."""

    @pytest.mark.parametrize("exit", [SystemExit, KeyboardInterrupt])
    def test_a_loss_is_answered_while_a_log_handler_blocks(self, make_pool, host, way, blocked, exit):
        def losses(error):
            raise exit(3)

        pool = make_pool(losses=losses)
        answers = way.call(pool, only_for(1, kill_self(), square), [0, 1, 2])
        assert all(isinstance(error, WorkerLostError) for error in answers.errors)
        assert answers.errors
        assert way.call(pool, square, [1, 2, 3]).values == [1, 4, 9]


class TestPoolBadLimits(BadLimits):
    binding = BindPool


class TestExecutorBadLimits(BadLimits):
    binding = BindExecutor


class TestLokyBadLimits(BadLimits):
    binding = BindLoky
    variations = 1


class TestPoolLosses(LossesExit):
    binding = BindPool


class TestExecutorLosses(LossesExit):
    binding = BindExecutor


class Blocked(logging.Handler):
    """Blocks until it is told to go on."""

    def __init__(self):
        super().__init__()
        self.may_go_on = threading.Event()

    def emit(self, record):
        self.may_go_on.wait(DEADLINE)
        raise SystemExit


@pytest.fixture(scope="module", autouse=True)
def warm_loky(warm):
    """Start what stays for the whole process."""
    with contextlib.suppress(ImportError):
        host = BindLoky()
        host.close(host.make_pool(1))


@pytest.fixture
def blocked():
    handler = Blocked()
    loggers = [logging.getLogger(name) for name in ("poolwarden", "concurrent.futures")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    handler.may_go_on.set()
    # Before it is removed: pytest's handlers, which come behind it, keep errors, their frames and the pools.
    eventually(
        lambda: all(thread.name != "poolwarden-complaints" for thread in threading.enumerate()),
        "nothing left to be said",
    )
    for logger in loggers:
        logger.removeHandler(handler)


class TestPool(UserCode):
    binding = BindPool


class TestMultiprocess(UserCode):
    binding = BindMultiprocess
    variations = 1


class TestExecutor(UserCode):
    binding = BindExecutor


class TestLoky(UserCode):
    binding = BindLoky
    variations = 2


class TestIterables(ContractBase):
    """What a pool's task thread iterates over."""

    binding = BindPool
    variations = 10

    @pytest.mark.parametrize("raised", RAISED, ids=lambda kind: getattr(kind, "__name__", "none"))
    @pytest.mark.parametrize("name", ["imap", "imap_unordered"])
    def test_an_iterable_that_raises(self, make_pool, name, raised):
        pool = make_pool()
        results = getattr(pool, name)(square, exits_at(3, raised))
        answers = Answers()
        for _ in range(4):
            answers.collect(lambda: results.next(DEADLINE))
        assert sorted(answers.values) == [0, 1, 4]
        assert type(answers.error) is (raised if issubclass(raised, Exception) else TaskExitError)
        with pytest.raises(StopIteration):
            results.next(DEADLINE)

    @pytest.mark.parametrize("raised", [None, *RAISED], ids=lambda kind: getattr(kind, "__name__", "none"))
    @pytest.mark.parametrize("chunk", [1, 2])
    def test_a_map_over_fewer_items_than_there_should_be(self, make_pool, chunk, raised):
        expected = ValueError if raised is None else raised
        if not issubclass(expected, Exception):
            expected = TaskExitError
        result = make_pool().map_async(square, Short(raised), chunk)
        with pytest.raises(expected):
            result.get(DEADLINE)


def square_behind(path: str, number: int) -> int:
    """Return the square of a number once a file is there."""
    eventually(Path(path).exists, "the file")
    return square(number)


@pytest.mark.parametrize("raised", RAISED, ids=lambda kind: getattr(kind, "__name__", "none"))
class TestPoolCallbacks(ContractBase):
    binding = BindPool

    def test_a_callback_that_raises_while_a_log_handler_blocks(self, make_pool, blocked, raised):
        pool = make_pool()

        def callback(value):
            raise raised(3)

        for _ in range(3):
            assert pool.apply_async(square, (2,), callback=callback).get(DEADLINE) == 4
        assert pool.map_async(square, range(4), callback=callback).get(DEADLINE) == [0, 1, 4, 9]


@pytest.mark.parametrize("raised", RAISED, ids=lambda kind: getattr(kind, "__name__", "none"))
class ExecutorCallbacks(ContractBase):
    def test_a_callback_that_raises_while_a_log_handler_blocks(
        self, make_pool, host, blocked, raised, tmp_path
    ):
        pool = make_pool()

        def callback(future):
            raise raised(3)

        for number in range(3):
            gate = tmp_path / str(number)
            # Not done before it has its callback, which would be called, and raise, right here.
            future = host.submit(pool, square_behind, str(gate), 2)
            future.add_done_callback(callback)
            gate.touch()
            assert future.result(DEADLINE) == 4
            assert host.result(host.submit(pool, square, 3), DEADLINE) == 9


class TestExecutorCallbacks(ExecutorCallbacks):
    binding = BindExecutor


class TestLokyCallbacks(ExecutorCallbacks):
    binding = BindLoky


class ExitsWhenPickled:
    def __reduce__(self):
        raise SystemExit(3)


@pytest.mark.usefixtures("warm_loky")
class TestLokyPickling(ContractBase):
    binding = BindLoky

    def test_an_exit_is_also_what_loky_raises_for_it(self, make_pool, host):
        with pytest.raises(TaskExitError) as caught:
            host.result(host.submit(make_pool(), square, ExitsWhenPickled()))
        assert isinstance(caught.value, pickle.PicklingError)
