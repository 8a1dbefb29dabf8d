"""A task forks, and the child does not leave by ``os._exit``.

The forked process has the worker's whole stack beneath it: when it comes back
from the user's code it is in the envelope, and behind that in the host's loop.
It is nobody's worker: it must not answer, take tasks, go on with the items of a
chunk, write the record, a slot or a file of the worker's, or hold up the end of
the pool. It ends as the bare worker does: exit status, exit handlers, output.

The kind, by where the fork happens and how its child leaves. Where: in the task
itself, of every way of submitting (single, chunk, batch; items timed, results
kept); while the call is unpickled, small or from a file that both read; while
the result is pickled, small, in a slot, in a file; while it is freed; in the
initializer; in a signal handler of an idle worker; by ``pty.fork``, by
``multiprocessing.Process``. How: sys.exit with a status, return, raise, daemonise
(a second fork), exec, ``os._exit`` (which always worked).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from poolwarden import install, uninstall
from tests.attack import forking
from tests.contract.base import ContractBase
from tests.contract.binding import PoolBinding, Way
from tests.contract.waiting import ENDING, all_gone, eventually, lines_of, within
from tests.hosts.bind_executor import BindElsewhere, BindExecutor
from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLate, BindLoky
from tests.hosts.bind_pool import BindPool

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

every_way_out = pytest.mark.parametrize("how", list(forking.STATUS))
ways_back = pytest.mark.parametrize("how", ["exits", "returns"])


@pytest.fixture(scope="module", autouse=True)
def warm_hosts(warm: None) -> None:
    """Start what loky and its copy in joblib keep for the whole process."""
    for host in (BindLoky(), BindJoblib()):
        with contextlib.suppress(ImportError):
            host.close(host.make_pool())


def check_children(path: Path, how: str, count: int = 1) -> None:
    """Check that each forked process has ended by itself, and how."""
    assert lines_of(f"{path}.status") == [str(forking.STATUS[how])] * count
    all_gone([int(line) for line in lines_of(f"{path}.children")])


class ForkedTasks(ContractBase):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "notes"

    @every_way_out
    def test_every_item_is_answered_once_by_the_worker(
        self, host: PoolBinding, make_pool: Any, path: Path, way: Way, how: str
    ) -> None:
        answers = way.call(make_pool(), forking.Forks(path, how), list(range(7)))
        assert (sorted(answers.values), answers.errors) == ([n * n for n in range(7)], [])
        ran = [line.split()[1] for line in lines_of(f"{path}.ran")]
        assert sorted(ran) == [str(n) for n in range(7)]
        check_children(path, how, 7)

    @ways_back
    @pytest.mark.parametrize("options", [{"retries": 1}, {"timeout": 60.0}, {"losses": "return"}], ids=repr)
    def test_kept_and_timed_items_are_the_worker_s(
        self, host: PoolBinding, make_pool: Any, path: Path, way: Way, how: str, options: dict[str, Any]
    ) -> None:
        answers = way.call(make_pool(**options), forking.Forks(path, how), list(range(7)))
        assert (sorted(answers.values), answers.errors) == ([n * n for n in range(7)], [])
        assert len(lines_of(f"{path}.ran")) == 7
        check_children(path, how, 7)

    @ways_back
    @pytest.mark.parametrize("size", [10, 5_000, 300_000])
    def test_what_forks_while_it_is_pickled_is_the_worker_s(
        self, host: PoolBinding, make_pool: Any, path: Path, how: str, size: int
    ) -> None:
        pool = make_pool()
        worker, part, (head, pid), end = host.result(host.submit(pool, forking.Carrier(path, how, size), 1))
        assert (len(part), head, len(end), worker) == (size, size, size + 1, pid)
        assert set(part) == {ord("p")}
        check_children(path, how)

    @ways_back
    @pytest.mark.parametrize("size", [10, 30_000, 3_000_000])
    def test_what_forks_while_it_is_unpickled_is_the_worker_s(
        self, host: PoolBinding, make_pool: Any, path: Path, how: str, size: int
    ) -> None:
        data = b"d" * size
        arguments = data, forking.UnpickledFork(path, how), data + b"e"
        handle = host.submit(make_pool(), forking.measure, *arguments)
        assert host.result(handle) == (size, forking.STATUS[how], size + 1)
        check_children(path, how)

    def test_what_forks_when_it_is_freed(self, host: PoolBinding, make_pool: Any, path: Path) -> None:
        freed = forking.ForksWhenFreed(path, "returns")
        assert host.result(host.submit(make_pool(), forking.nothing, freed)) == 7
        eventually(lambda: lines_of(f"{path}.status"), "it was freed")
        check_children(path, "returns")

    def test_a_terminal_between(self, host: PoolBinding, make_pool: Any, path: Path) -> None:
        assert host.result(host.submit(make_pool(), forking.fork_terminal, str(path))) == 0
        all_gone([int(line) for line in lines_of(f"{path}.children")])

    def test_a_process_of_multiprocessing(self, host: PoolBinding, make_pool: Any, path: Path) -> None:
        pool = make_pool(nesting=True)
        assert host.result(host.submit(pool, forking.start_process, str(path), 4)) == 4


class ForkedInitializers(ContractBase):
    @pytest.fixture
    def born_guarded(self, host: PoolBinding, start_method: str) -> Iterator[Any]:
        """Make pools whose workers are all born under the guard."""
        made = []

        def make(**options: Any) -> Any:
            install()
            try:
                made.append(host.make_bare(2, start_method, **options))
            finally:
                uninstall()
            return made[-1]

        yield make
        while made:
            within(ENDING, host.close, made.pop())

    @ways_back
    def test_the_initializer_forks(
        self, host: PoolBinding, born_guarded: Any, tmp_path: Path, how: str
    ) -> None:
        path = tmp_path / "notes"
        pool = born_guarded(initializer=forking.InitializerForks(path, how))
        handles = [host.submit(pool, os.getpid) for _ in range(12)]
        ran = {host.result(handle) for handle in handles}
        eventually(lambda: len(lines_of(f"{path}.status")) == 2, "both have forked")
        assert not ran & {int(line) for line in lines_of(f"{path}.children")}
        # Which, is the host's: an executor takes an exit in an initializer for a failure.
        assert "it never ended" not in lines_of(f"{path}.status")

    def test_a_signal_handler_of_an_idle_worker_forks(
        self, host: PoolBinding, born_guarded: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "notes"
        pool = born_guarded(initializer=forking.ForksOnSignal(path))
        for handle in [host.submit(pool, time.sleep, 0.2) for _ in range(2)]:
            host.result(handle)
        for pid in host.idle_pids(pool):
            os.kill(pid, signal.SIGUSR1)
        eventually(lambda: len(lines_of(f"{path}.children")) == 2, "both have forked")
        handles = [host.submit(pool, os.getpid) for _ in range(20)]
        ran = {host.result(handle) for handle in handles}
        children = [int(line) for line in lines_of(f"{path}.children")]
        assert not ran & set(children)
        host.close(pool)
        all_gone(children)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the bare forked worker runs no atexit handlers")
def test_the_child_exits_as_the_bare_worker_does(tmp_path: Path) -> None:
    host = BindPool()
    seen = []
    for make in (host.make_bare, host.make_pool):
        path = tmp_path / make.__name__
        with make(1) as pool:
            status = pool.apply_async(forking.fork_with_handlers, (str(path),)).get(20)
        # Whether the worker itself gets to its finalizers is a race with the pool's end.
        handlers = sorted(line for line in lines_of(path) if line != "finalizer")
        seen.append((status, handlers, lines_of(f"{path}.out")))
    assert seen[0] == seen[1]
    assert seen[0][0] == 3


class TestPool(ForkedTasks, ForkedInitializers):
    binding = BindPool


class TestExecutor(ForkedTasks, ForkedInitializers):
    binding = BindExecutor


class TestExecutorElsewhere(ForkedTasks, ForkedInitializers):
    binding: ClassVar = BindElsewhere
    variations = 1


class Optional(ContractBase):
    """A host that may not be installed."""

    variations = 1

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("joblib")
        pytest.importorskip("loky")


class TestLoky(ForkedTasks, ForkedInitializers, Optional):
    binding = BindLoky


class TestLokyOlder(ForkedTasks, Optional):
    binding = BindLate
    test_a_process_of_multiprocessing = None


class TestJoblib(ForkedTasks, Optional):
    binding = BindJoblib
