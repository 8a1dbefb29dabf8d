"""Rows 11, 13, 14, 15 and 18: memory, the parent, grandchildren, signals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolwarden import WorkerLostError
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding
from tests.contract.tasks import executed_sleeper, forked_sleeper, start_and_die, start_inner_pool
from tests.contract.waiting import DEADLINE, all_gone, eventually, is_gone, lines_of

MEMORY = 160 << 20  # bytes; the parent and two idle workers need about 40 MB


class Program:
    """One function of `tests.contract.programs`, running as a process group of its own."""

    def __init__(self, command: list[str], stderr: Path, **options: Any) -> None:
        self._stderr = stderr
        with open(stderr, "wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
                **options,
            )
        self.pid = self._process.pid

    def told(self) -> dict[str, Any]:
        """Return the facts of the next line; fail with its stderr when it ends without one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"ended with {self.wait()} and said only:\n{self.stderr}"
        facts: dict[str, Any] = json.loads(line)
        return facts

    def wait(self, seconds: float = DEADLINE) -> int:
        """Return the exit status, as `subprocess` tells it."""
        return self._process.wait(seconds)

    def succeeded(self) -> None:
        """Check that it ended by itself and found nothing wrong."""
        assert self.wait() == 0, self.stderr

    def kill(self) -> None:
        """SIGKILL the process alone, not its workers."""
        self._process.kill()
        self.wait()

    def interrupt(self) -> None:
        """Send SIGINT to the whole group, as a terminal does for Ctrl-C."""
        os.killpg(self.pid, signal.SIGINT)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def clean_up(self) -> None:
        """End the whole group and close the pipes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class ProgramBase(ContractBase):
    """Adds the fixture that starts programs."""

    @pytest.fixture
    def run(self, start_method: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
        """Return ``run(name, *args, prefix=[])``, which starts a program for this host and start method."""
        started: list[Program] = []

        def run(name: str, *args: Any, prefix: list[str] | None = None) -> Program:
            binding = f"{self.binding.__module__}:{self.binding.__qualname__}"
            command = [*(prefix or []), sys.executable, "-m", "tests.contract.programs", name, binding]
            command += [start_method, *map(str, args)]
            stderr = tmp_path / f"stderr-{len(started)}"
            started.append(Program(command, stderr, cwd=Path(__file__).parents[2]))
            return started[-1]

        yield run
        for program in started:
            program.clean_up()


class OneAfterAnother(ProgramBase):
    """Pools whose lives do not overlap know nothing of each other."""

    def test_nobody_is_told_of_anything(self, run: Callable[..., Program]) -> None:
        # Neither of forks beside a thread, by Python, nor of workers that left, by us.
        # In 3.12 `Thread.join` returns before the system's thread has ended: bare pools are warned of, too.
        kinds = "ignore" if sys.version_info[:2] == (3, 12) else "always"
        program = run("one_after_another", prefix=["env", f"PYTHONWARNINGS={kinds}::DeprecationWarning"])

        program.succeeded()

        assert program.stderr == ""


class OutOfMemory(ProgramBase):
    """Row 11: a real kill by the kernel for memory is called one, with evidence."""

    @pytest.fixture
    def group(self) -> Iterator[Path]:
        """Return a memory cgroup, version 1 or 2, that allows `MEMORY` bytes."""
        with memory_cgroup(MEMORY) as group:
            yield group

    @pytest.mark.every_start_method
    def test_a_kill_for_memory_is_told_and_others_go_on(
        self, run: Callable[..., Program], group: Path
    ) -> None:
        join = ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"]
        program = run("out_of_memory", MEMORY, prefix=join)

        told = program.told()

        program.succeeded()
        assert told["cause"] == "oom"
        assert told["exitcode"] == -signal.SIGKILL
        assert any("oom_kill" in line for line in told["evidence"]), told
        assert "memory" in told["text"]


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    """Make a memory cgroup with this limit in bytes; skip, saying why, where none can be made."""
    root = Path("/sys/fs/cgroup")
    one = (root / "memory" / "memory.limit_in_bytes").exists()
    group = (root / "memory" if one else root) / f"poolwarden-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made: {error}")
    try:
        try:
            (group / ("memory.limit_in_bytes" if one else "memory.max")).write_text(str(limit))
            with contextlib.suppress(OSError):  # without swap there is nothing to switch off
                (group / ("memory.swappiness" if one else "memory.swap.max")).write_text("0")
        except OSError as error:
            pytest.skip(f"no memory cgroup can be limited: {error}")
        yield group
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text().split(), "the cgroup empty")
        group.rmdir()


class ParentKilled(ProgramBase):
    """Row 13: no worker outlives the parent, however busy it is."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize(
        "workers",
        [["idle"], ["used"], ["hang", "spin"], ["hold_gil", "deaf"], ["used", "hang", "hold_gil"]],
        ids="+".join,
    )
    def test_no_worker_outlives_the_parent(
        self, run: Callable[..., Program], notes: Notes, workers: list[str]
    ) -> None:
        program = run("busy", notes.path, *workers)
        pids = program.told()["workers"]
        assert len(pids) == max(2, len(workers))
        assert not any(map(is_gone, pids))

        program.kill()

        all_gone(pids)


class Grandchildren(ContractBase):
    """Row 14: what a worker has started neither hides its death nor outlives it."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("start", [forked_sleeper, executed_sleeper], ids=["forked", "executed"])
    def test_a_death_is_seen_though_a_grandchild_holds_the_workers_pipes(
        self, host: PoolBinding, make_pool: Pools, tmp_path: Path, start: Callable[[], int]
    ) -> None:
        pool = make_pool()
        path = tmp_path / "grandchildren"
        try:
            for number in (1, 2):
                with pytest.raises(WorkerLostError) as caught:
                    host.result(host.submit(pool, start_and_die, str(path), start))
                assert caught.value.exit.signal == "SIGKILL"
                sleepers = [int(line) for line in lines_of(path)]
                assert len(sleepers) == number
                assert not is_gone(sleepers[-1]), "it has to be there, or nothing is tested"
            serves(host, pool)
        finally:
            for line in lines_of(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line), signal.SIGKILL)

    @pytest.mark.parametrize("guarded", [True, False], ids=["guarded-inside", "bare-inside"])
    @pytest.mark.parametrize("inner", ["idle", "busy", "stuck"])
    def test_the_workers_of_a_nested_pool_do_not_survive_it(
        self, host: PoolBinding, make_pool: Pools, tmp_path: Path, guarded: bool, inner: str
    ) -> None:
        pool = make_pool(nesting=True)
        path = tmp_path / "grandchildren"
        outer = host.submit(pool, start_inner_pool, type(host), str(path), guarded, inner)
        eventually(lambda: len(lines_of(path)) == 3, "the nested pool")
        worker, *grandchildren = (int(line) for line in lines_of(path))

        os.kill(worker, signal.SIGKILL)

        with pytest.raises(WorkerLostError):
            host.result(outer)
        all_gone(grandchildren)

    @pytest.mark.parametrize("guarded", [True, False], ids=["guarded-inside", "bare-inside"])
    def test_a_nested_pool_works(
        self, host: PoolBinding, make_pool: Pools, tmp_path: Path, guarded: bool
    ) -> None:
        pool = make_pool(nesting=True)
        path = str(tmp_path / "grandchildren")

        assert host.result(host.submit(pool, start_inner_pool, type(host), path, guarded, "ends")) == 9


class Signals(ProgramBase):
    """Row 15: someone else reaps, or nobody; the fork server is gone."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("trouble", ["sigchld_ignored", "reaped_elsewhere"])
    def test_deaths_are_seen_though_children_cannot_be_waited_for(
        self, run: Callable[..., Program], notes: Notes, trouble: str
    ) -> None:
        program = run(trouble, notes.path)

        assert program.told() == {"done": True}
        program.succeeded()

    @pytest.mark.every_start_method
    def test_the_fork_server_is_killed(
        self, run: Callable[..., Program], notes: Notes, start_method: str
    ) -> None:
        if start_method != "forkserver":
            pytest.skip("this start method has no server")
        program = run("fork_server_killed", notes.path)

        assert program.told() == {"done": True}
        program.succeeded()


class Interrupts(ProgramBase):
    """Row 18: Ctrl-C ends the program and everything it started."""

    @pytest.mark.every_start_method
    def test_ctrl_c_while_it_waits_for_tasks(
        self, run: Callable[..., Program], notes: Notes, blocking: str
    ) -> None:
        program = run("interrupted", notes.path, blocking)
        pids = program.told()["workers"]
        notes.pids(2)

        program.interrupt()

        self._ended_as_it_should(program, pids)

    @pytest.mark.every_start_method
    def test_ctrl_c_while_the_pool_is_idle(self, run: Callable[..., Program], notes: Notes) -> None:
        program = run("interrupted_idle", notes.path)
        pids = program.told()["workers"]

        program.interrupt()

        self._ended_as_it_should(program, pids)

    def _ended_as_it_should(self, program: Program, pids: list[int]) -> None:
        assert program.wait() in (-signal.SIGINT, 130), program.stderr
        all_gone(pids)
        tracebacks = program.stderr.count("Traceback") - program.stderr.count("During handling of the above")
        assert tracebacks <= 1, program.stderr
        assert "KeyboardInterrupt" in program.stderr


class InterpreterExit(ProgramBase):
    """Leaving the interpreter ends a pool nobody closed."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("past", ["nothing", "lost", "idle_killed", "hang", "hold_gil", "deaf"])
    def test_the_interpreter_ends_with_the_pool_open(
        self, run: Callable[..., Program], notes: Notes, past: str
    ) -> None:
        program = run("exits_with_the_pool_open", notes.path, past)
        pids = program.told()["workers"]

        program.succeeded()

        all_gone(pids)
        assert "Traceback" not in re.sub(self.binding.said_at_exit, "", program.stderr)
