"""The watchdog's thread, or that of the events, is interrupted, ends, or cannot be started.

Siblings: an exception of any class (``PyThreadState_SetAsyncExc``, as tools that stop
threads send it; MemoryError; SystemExit) at any bytecode of the thread: while it waits,
between taking what has ended out of its table and handling it, in the middle of a
burial, of a repair, of the stop of an overdue task, in the net that catches it; a storm
of them; no thread to be had when `guard` is called, when the first worker is born, or
when the next thread is due; an interpreter that ends; Ctrl-C in the user's thread while
that wakes or starts it; the pipe that wakes it closed by the program, with other files
opened in its place.
"""

from __future__ import annotations

import ctypes
import dis
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest

from poolwarden import TaskTimeoutError, WorkerLostError, clock
from poolwarden.core.events import Herald
from poolwarden.policy import Policy
from poolwarden.system import watchdog as watchdog_module
from poolwarden.system.watchdog import Watchdog, watchdog
from poolwarden.testing import hang, kill_self
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding
from tests.contract.tasks import Noted, square
from tests.contract.waiting import DEADLINE, eventually
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool
from tests.worker.processes import answer_of

#: A file that is being read when something is raised is closed only when it is collected, and what comes
#: at the last step of a thread is told there.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

PACKAGE = os.path.dirname(os.path.dirname(watchdog_module.__file__))


class StopItError(Exception):
    """What somebody raises in a thread that is not theirs."""


def thread() -> threading.Thread:
    return eventually(lambda: watchdog()._thread, "the watchdog's thread")


def raise_in(target: threading.Thread, error: type[BaseException]) -> None:
    """Have an exception come at the next bytecode of another thread."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(target.ident or 0), ctypes.py_object(error))


class Interrupter:
    """Raises once, at the `number`-th place in this package where an exception can come from outside.

    That is behind a call, at the beginning of a function, and where a loop goes back.
    """

    def __init__(self, number: int, error: type[BaseException] = StopItError) -> None:
        self.left = number
        self.error = error
        self.raised = False
        self.before = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before, self.before = self.before, dis.opname[frame.f_code.co_code[frame.f_lasti]]
            self.left -= before.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
            if self.left < 0 and not self.raised:
                self.raised = True
                sys.settrace(None)
                raise self.error("from outside")
        return self


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Interrupter], None]]:
    """Has the watchdog interrupted while it handles what it finds next."""
    waiting: list[Interrupter] = []
    bare = Watchdog._wait

    def wait(self: Watchdog, *args: Any) -> Any:
        found = bare(self, *args)
        # Only behind a death or a deadline, not behind a mere wake-up.
        if waiting and found != [self._wakeup.reader]:
            interrupter = waiting.pop()
            frame: Any = sys._getframe(1)
            sys.settrace(interrupter)
            while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
                frame.f_trace, frame.f_trace_opcodes = interrupter, True
                frame = frame.f_back
        return found

    monkeypatch.setattr(Watchdog, "_wait", wait)
    yield waiting.append
    waiting.clear()


class Interrupted(ContractBase):
    """Whatever is raised in the thread, wherever it stands: losses are answered, and nothing runs twice."""

    #: Every so many of the places are tried: loky's workers take long to start.
    step: ClassVar[int] = 1

    @pytest.mark.parametrize("error", [StopItError, MemoryError, SystemExit, KeyboardInterrupt])
    def test_while_it_waits(self, make_pool: Pools, host: PoolBinding, error: type[BaseException]) -> None:
        pool = make_pool(timeout=1)
        for func, expected in ((kill_self(), WorkerLostError), (hang(), TaskTimeoutError)):
            raise_in(thread(), error)
            with pytest.raises(expected):
                host.result(host.submit(pool, func))

    @pytest.mark.parametrize("retries", [0, 1])
    def test_at_any_bytecode_of_a_loss(
        self, make_pool: Pools, host: PoolBinding, notes: Notes, interrupt: Any, retries: int
    ) -> None:
        pool = make_pool(retries=retries)
        for number in POINTS[:: self.step]:
            interrupt(Interrupter(number, StopItError))
            before = sum(notes.items().values())
            with pytest.raises(WorkerLostError):
                host.result(host.submit(pool, Noted(notes.path, kill_self()), number))
            ran = sum(notes.items().values()) - before
            assert 1 <= ran <= 1 + retries, f"ran {ran} times, interrupted at {number}"

    def test_at_any_bytecode_of_a_repair(self, make_pool: Pools, host: PoolBinding, interrupt: Any) -> None:
        pool = make_pool()
        for number in POINTS[:: self.step]:
            interrupt(Interrupter(number, StopItError))
            os.kill(host.idle_pids(pool)[0], 9)
            serves(host, pool)

    def test_at_any_bytecode_of_a_timeout(self, make_pool: Pools, host: PoolBinding, interrupt: Any) -> None:
        pool = make_pool(timeout=0.05)
        for number in POINTS[:: 2 * self.step]:
            interrupt(Interrupter(number, StopItError))
            with pytest.raises(TaskTimeoutError):
                host.result(host.submit(pool, hang()))

    def test_a_storm_of_exceptions(self, host: PoolBinding, start_method: str) -> None:
        """In a process of its own: what the interpreter's own code leaves open is not ours to close."""
        if start_method != "fork":
            pytest.skip("the process that is forked for it has no main module")

        def rage() -> None:
            while not over.wait(0.02):
                if (target := watchdog()._thread) is not None:
                    raise_in(target, StopItError)

        def lose() -> bool:
            pool = host.make_pool(2, start_method, retries=1)
            threading.Thread(target=rage, daemon=True).start()
            for _ in range(8):
                with pytest.raises(WorkerLostError):
                    host.result(host.submit(pool, kill_self()))
                assert host.result(host.submit(pool, square, 3)) == 9
            over.set()
            host.terminate(pool)
            return True

        over = threading.Event()
        assert answer_of(lose)

    def test_past_its_net(
        self, make_pool: Pools, host: PoolBinding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The thread ends, though there is something to wait for; it has another one started."""
        pool = make_pool()
        old = end_next_round(monkeypatch)
        with pytest.raises(WorkerLostError):
            host.result(host.submit(pool, kill_self()))
        eventually(lambda: not old.is_alive(), "the end of the thread")
        assert watchdog()._thread is not old

    def test_no_thread_to_follow_it(
        self, make_pool: Pools, host: PoolBinding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends, and the next cannot be started for a while; whoever comes by tries again."""
        pool = make_pool()
        with monkeypatch.context() as patch:
            patch.setattr(Watchdog, "_start", lambda self: False)
            old = end_next_round(patch)
            lost = host.submit(pool, kill_self())
            eventually(lambda: not old.is_alive(), "the end of the thread")
        serves(host, pool)
        with pytest.raises(WorkerLostError):
            host.result(lost)


def end_next_round(patch: pytest.MonkeyPatch) -> threading.Thread:
    """Have the thread that is there end with its next round."""
    old, bare = thread(), Watchdog._round
    patch.setattr(Watchdog, "_round", lambda self: threading.current_thread() is not old and bare(self))
    return old


#: All from 0 to 900 were tried; a loss has some 450, a repair more than 800.
POINTS = (0, 2, 7, 16, 30, 44, 61, 90, 118, 155, 203, 260, 330, 410, 487, 650, 801)


class TestPool(Interrupted):
    binding = BindPool


class TestExecutor(Interrupted):
    binding = BindExecutor


@pytest.mark.usefixtures("warm_loky")
class TestLoky(Interrupted):
    binding = BindLoky
    step = 4
    variations = 1


@pytest.mark.usefixtures("warm_loky")
class TestJoblib(Interrupted):
    binding = BindJoblib
    step = 5
    variations = 1


class Told:
    """An owner that only remembers."""

    def __init__(self) -> None:
        self.deadline = threading.Event()

    def on_exits(self, tokens: list[Any]) -> None:
        pass

    def on_deadline(self) -> None:
        self.deadline.set()

    def on_failure(self, error: BaseException) -> None:
        pass


def test_who_is_interrupted_while_waking_it_leaves_it_neither_deaf_nor_locked() -> None:
    """Ctrl-C in the user's thread, at every place of it; whoever comes next is heard."""
    far, number, interrupted = Told(), 0, True
    watchdog().schedule(far, clock.now() + 1000)
    try:
        while interrupted:
            interrupter, first, second = Interrupter(number, KeyboardInterrupt), Told(), Told()
            sys.settrace(interrupter)
            try:
                watchdog().schedule(first, clock.now() + 500)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            interrupted = interrupter.raised
            asking = threading.Thread(target=lambda it=second: watchdog().schedule(it, clock.now()))
            asking.start()
            assert second.deadline.wait(DEADLINE), f"deaf, interrupted at {number}"
            asking.join(DEADLINE)
            watchdog().forget(first)
            number += 1
        assert number > 5
    finally:
        watchdog().forget(far)


def test_a_program_that_closes_its_pipe_and_opens_files_in_its_place(tmp_path: Path) -> None:
    """As who makes itself a daemon does, with files that it does not know."""

    def close_and_ask() -> tuple[bool, bytes]:
        far, near = Told(), Told()
        watchdog().schedule(far, clock.now() + 1000)
        wakeup = watchdog()._wakeup
        numbers = wakeup.reader.fileno(), wakeup._writer.fileno()
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        for number in numbers:
            os.dup2(fd, number)
        watchdog().schedule(near, clock.now())
        return near.deadline.wait(DEADLINE), (tmp_path / "file").read_bytes()

    assert answer_of(close_and_ask) == (True, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="how much room a thread's stack takes is checked there")
def test_where_no_thread_can_be_started_guard_says_so_and_leaves_the_pool_bare() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_THREAD], capture_output=True, text=True, timeout=2 * DEADLINE
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("poolwarden:") == 1, done.stderr
    assert "no thread can be started" in done.stderr


#: A stack of 16 TB is more than a process has room for, so no thread starts, as where a limit is reached.
NO_THREAD = """
import multiprocessing, threading
from concurrent.futures import ProcessPoolExecutor
import poolwarden

context = multiprocessing.get_context("fork")
pool, early = context.Pool(2), ProcessPoolExecutor(2, context)
bare = type(pool), dict(vars(pool))
before = threading.stack_size(2**44)
for each in (pool, early):
    try:
        poolwarden.guard(each)
    except poolwarden.ConfigurationError as error:
        assert "no thread can be started" in str(error), error
    else:
        raise AssertionError("guarded")
assert (type(pool), dict(vars(pool))) == bare
assert pool.map(abs, [-1, -2]) == [1, 2]
poolwarden.install()
late = [ProcessPoolExecutor(2, context) for _ in range(3)]
poolwarden.uninstall()
threading.stack_size(before)
assert [list(each.map(abs, [-3])) for each in (early, *late)] == [[3]] * 4
assert poolwarden.guard(pool).map(abs, [-5]) == [5]
pool.close()
pool.join()
for each in (early, *late):
    each.shutdown()
"""


def test_the_thread_of_the_events_is_looked_after_as_well() -> None:
    told: list[str] = []
    herald = Herald("Pool-1")
    policy = Policy(on_event=lambda event: told.append(event.detail))
    try:
        for number in range(30):
            herald.tell("worker_lost", policy, detail=str(number))
            eventually(lambda number=number: str(number) in told, f"event {number}")
            raise_in(herald._thread, (StopItError, SystemExit, MemoryError)[number % 3])
        with pytest.MonkeyPatch.context() as patch:
            # It ends with a round, and no other can be started for a while.
            patch.setattr(Herald, "_tell_next", lambda self: False)
            herald.tell("worker_lost", policy, detail="last")
            eventually(lambda: not herald._thread.is_alive(), "the end of the thread")
            patch.setattr(threading.Thread, "start", raise_no_room)
            herald.tell("worker_lost", policy, detail="without a thread")
        herald.tell("worker_lost", policy, detail="with one")
        eventually(lambda: "with one" in told, "the event")
        assert told[-2:] == ["without a thread", "with one"]
    finally:
        herald.close()


def raise_no_room(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
