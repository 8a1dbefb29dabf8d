"""pytest-xdist's own processes that die: each test here is a real run whose worker is lost.

Siblings: a signal, an exit status, a crash in C, out of memory; in a test, while tests are collected, after
the last test; one and several, the replacements too; each way to hand out tests; a process behind another
program, on another machine, or unknown; a child of the worker that crashes; without xdist; not asked for.
"""

from __future__ import annotations

import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from poolwarden.activation import pytest_stacks
from poolwarden.activation.pytest_workers import CrashReports
from poolwarden.system.kernel_log import KernelLog
from tests.activation.test_pytest_plugin import XDIST, run
from tests.system.test_out_of_memory_real import Cgroup

DEATHS = """\
import ctypes, faulthandler, os, signal, time
import pytest

def test_before():
    pass

def test_killed():
    block = bytearray(150_000_000)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)

def test_exits():
    os._exit(7)

def test_crashes():
    ctypes.string_at(0)

def test_behind():
    pass
"""

CHILD = """\
import ctypes, os, signal

def test_child_crashes():
    pid = os.fork()
    if pid == 0:
        ctypes.string_at(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV

def test_worker_aborts():
    os.kill(os.getpid(), signal.SIGTERM)
"""

GREEDY = """\
import os

def test_greedy():
    blocks = [bytearray(b"x" * 2**20) for _ in range(4 * 48)]
"""

ALONE = "import os, signal\ndef test_dies():\n    os.kill(os.getpid(), signal.SIGKILL)\n"


def failure(ran: Any, test: str) -> str:
    """Return the text of a failed test, as the run prints it."""
    found = re.search(rf"^(.* crashed while running '[^']*{test}'\n(?:.*\n)*?)(?:___|===)", ran.stdout, re.M)
    assert found, ran.stdout + ran.stderr
    return found[1]


def section(ran: Any) -> str:
    _, _, rest = ran.stdout.partition("poolwarden: lost workers and tasks")
    return str(rest.partition("\n===")[0])


def is_without_poolwarden(ran: Any) -> bool:
    return "poolwarden" not in re.sub(r"^(plugins|rootdir):.*", "", ran.stdout, flags=re.M)


@XDIST
class TestOfARun:
    @pytest.mark.parametrize("options", [["-n1"], ["-n2", "--dist", "worksteal"], ["-n2", "--dist", "load"]])
    def test_says_how_each_died(self, tmp_path: Any, options: list[str]) -> None:
        ran = run(tmp_path, DEATHS, "--poolwarden", *options)

        assert "3 failed, 2 passed" in ran.stdout, ran.stdout + ran.stderr
        killed, exits, crashes = (
            failure(ran, name) for name in ("test_killed", "test_exits", "test_crashes")
        )
        assert killed.startswith("killed by SIGKILL (exitcode -9), ")
        assert exits.startswith("exited with status 7, ")
        assert crashes.startswith("killed by SIGSEGV (exitcode -11), ")
        if sys.platform == "linux":
            assert 150 < float(re.search(r"Peak memory ([\d.]+) MB, CPU time \d", killed)[1]) < 400
            assert 0 < float(re.search(r"CPU time ([\d.]+) s", exits)[1]) < 60
            assert re.search(r'test_it\.py", line 16 in test_crashes\n', crashes)
            assert "_pytest" not in crashes
            assert "pluggy" not in crashes
        for text in (killed, exits, crashes):
            assert "Try: " in text
            lines = [line.strip() for line in text.splitlines()]
            assert all(line in section(ran) for line in lines[1:])

    def test_short_summary_begins_with_the_reason(self, tmp_path: Any) -> None:
        ran = run(tmp_path, ALONE, "--poolwarden", "-n1")
        assert "FAILED test_it.py::test_dies - killed by SIGKILL" in ran.stdout

    @pytest.mark.parametrize(
        ("options", "more"),
        [(["-n1"], {"POOLWARDEN": "1"}), (["-n4", "--maxprocesses", "1", "-o", "poolwarden=true"], {})],
        ids=["variable", "setting"],
    )
    def test_is_on_as_the_plugin_is(self, tmp_path: Any, options: list[str], more: dict[str, str]) -> None:
        assert failure(run(tmp_path, ALONE, *options, **more), "test_dies").startswith("killed by SIGKILL")

    @pytest.mark.parametrize("more", [{}, {"POOLWARDEN": "0"}], ids=["unset", "off"])
    def test_is_off_as_the_plugin_is(self, tmp_path: Any, more: dict[str, str]) -> None:
        ran = run(tmp_path, ALONE, "-n1", **more)
        assert "worker 'gw0' crashed while running 'test_it.py::test_dies'" in ran.stdout
        assert is_without_poolwarden(ran)

    @pytest.mark.parametrize("dist", ["loadfile", "loadscope", "loadgroup"])
    def test_ways_to_hand_out_tests(self, tmp_path: Any, dist: str) -> None:
        """The first two run the test again in each replacement, without us too."""
        ran = run(tmp_path, ALONE, "--poolwarden", "-n1", "--dist", dist, "--max-worker-restart", "1")
        assert failure(ran, "test_dies").startswith("killed by SIGKILL")

    def test_each_process_of_dist_each_is_told(self, tmp_path: Any) -> None:
        ran = run(
            tmp_path, ALONE, "--poolwarden", "--dist", "each", "--tx", "2*popen", "--max-worker-restart", "0"
        )
        assert section(ran).count("killed by SIGKILL (exitcode -9)") >= 1

    def test_death_while_collecting(self, tmp_path: Any) -> None:
        text = "import os\nif 'PYTEST_XDIST_WORKER' in os.environ:\n    os._exit(3)\ndef test_it(): pass\n"
        ran = run(tmp_path, text, "--poolwarden", "-n1", "--max-worker-restart", "1")
        assert section(ran).count("outside of any test: worker gw") == 2
        assert "worker gw0 exited with status 3\n" in section(ran)

    def test_a_childs_crash_is_not_the_workers(self, tmp_path: Any) -> None:
        ran = run(tmp_path, CHILD, "--poolwarden", "-n1")
        assert "1 failed, 1 passed" in ran.stdout, ran.stdout
        assert failure(ran, "test_worker_aborts").startswith("killed by SIGTERM")
        assert "Fatal Python error" not in ran.stdout
        assert "line 6 in test_child_crashes" in ran.stderr  # where pytest has it

    def test_a_process_behind_another_program(self, tmp_path: Any) -> None:
        starter = tmp_path / "starter"
        starter.write_text(f'#!/bin/sh\n{sys.executable} "$@"\nexit $?\n')
        starter.chmod(0o755)
        ran = run(tmp_path, ALONE, "--poolwarden", "--dist", "load", "--tx", f"popen//python={starter}")
        text = failure(ran, "test_dies")
        assert text.startswith(
            "likely killed by SIGKILL (exitcode -9): the program that started it exited with"
        )

    def test_over_ssh(self, tmp_path: Any) -> None:
        """With a stand-in for ssh that runs the command here."""
        (tmp_path / "bin").mkdir()
        ssh = tmp_path / "bin" / "ssh"
        ssh.write_text('#!/bin/sh\nsh -c "$3"\nexit 255\n')
        ssh.chmod(0o755)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        spec = f"ssh=there//python={sys.executable}//chdir={tmp_path}"
        ran = run(tmp_path, ALONE, "--poolwarden", "-d", "--tx", spec, "--max-worker-restart", "0", PATH=path)
        assert "how it ended is not known: ssh exited with status 255" in section(ran), (
            ran.stdout + ran.stderr
        )

    def test_out_of_memory(self, tmp_path: Any) -> None:
        cgroup = Cgroup()
        try:
            cgroup.limit()
            entering = f"open({str(cgroup.directory / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
            ran = run(
                tmp_path, GREEDY.replace("    blocks", f"    {entering}\n    blocks"), "--poolwarden", "-n1"
            )
        finally:
            cgroup.remove()
        text = failure(ran, "test_greedy")
        assert text.startswith("killed by SIGKILL (exitcode -9), ")
        if cgroup.version == 2:
            assert re.search(rf"Evidence: .*{re.escape(cgroup.path)}: oom_kill 0 → 1", text)
        # Version 1 does not tell where it was: it had gone there after its start.
        if cgroup.version == 2 or KernelLog().names(0, 1) is not None:
            assert text.startswith("killed by SIGKILL (exitcode -9), out of memory, ")
            assert "Free memory" not in text


@pytest.mark.parametrize("options", [["-n0"], ["-p", "no:xdist"]], ids=["n0", "without-xdist"])
def test_nothing_without_processes_of_xdist(tmp_path: Any, options: list[str]) -> None:
    ran = run(tmp_path, "def test_it(): pass\n", "--poolwarden", *options)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "lost workers" not in ran.stdout


class TestHooks:
    """With what xdist gives to them, where it cannot be had here."""

    def died(self, node: Any, error: object = "Not properly terminated") -> tuple[list[str], Any]:
        lines: list[str] = []
        reports = CrashReports(lines)
        report = SimpleNamespace(node=node, longrepr="worker 'gw0' crashed while running 'a.py::test'")
        reports.pytest_configure_node(node=node)
        reports.pytest_testnodedown(node=node, error=error)
        reports.pytest_handlecrashitem(crashitem="a.py::test", report=report)
        reports.pytest_unconfigure()
        return lines, report

    def node(self, **more: Any) -> Any:
        gateway = SimpleNamespace(id="gw0", spec=SimpleNamespace(popen=None), **more)
        return _Node(gateway=gateway, workerinput={})

    def test_another_machine(self) -> None:
        popen = SimpleNamespace(pid=os.getpid(), returncode=255)
        lines, report = self.died(self.node(_io=SimpleNamespace(popen=popen)))
        assert lines == [
            "a.py::test: worker gw0 was lost on another machine, how it ended is not known: "
            "ssh exited with status 255"
        ]
        assert "how it ended is not known" in report.longrepr

    def test_a_socket(self) -> None:
        lines, report = self.died(self.node())
        assert "no child of this process" in lines[0]
        assert report.longrepr.endswith("crashed while running 'a.py::test'")

    @pytest.mark.parametrize("node", [None, SimpleNamespace(), object()])
    def test_never_raise(self, node: Any) -> None:
        assert self.died(node)[0] == []

    def test_one_that_ended_its_run_is_not_told(self) -> None:
        node = self.node()
        node.workeroutput = {}
        assert self.died(node, "keyboard-interrupt")[0] == []

    def test_leave_no_descriptor(self) -> None:
        node = self.node(_io=SimpleNamespace(popen=SimpleNamespace(pid=os.getpid(), returncode=None)))
        node.gateway.spec.popen = True
        before = set(os.listdir("/proc/self/fd"))
        lines, _ = self.died(node, error="RemoteError\nValueError: x")
        assert "was given up by xdist (ValueError: x)" in lines[0] or "not known" in lines[0]
        # A collection may have closed some of the tests before.
        assert set(os.listdir("/proc/self/fd")) <= before


class _Node(SimpleNamespace):
    __hash__ = object.__hash__


def test_frames_are_those_of_the_thread_that_crashed() -> None:
    text = (
        "Fatal Python error: Segmentation fault\n\n"
        'Thread 0x01 (most recent call first):\n  File "threading.py", line 1 in wait\n\n'
        "Current thread 0x02 [python] (most recent call first):\n"
        '  File "/a/test_it.py", line 3 in test_x\n'
        '  File "/v/_pytest/python.py", line 166 in pytest_pyfunc_call\n'
        '  File "/v/pluggy/_callers.py", line 1 in _multicall\n\n'
        "Current thread's C stack trace (most recent call first):\n"
        + "".join(f'  Binary file "/lib/x.so", at f+0x{n} [0x1]\n' for n in range(40))
        + "\nExtension modules: a, b (total: 2)\n"
    )
    kept = pytest_stacks.crashed_frames(text).splitlines()
    assert kept[:3] == [
        "Fatal Python error: Segmentation fault",
        "Current thread 0x02 [python] (most recent call first):",
        '  File "/a/test_it.py", line 3 in test_x',
    ]
    assert kept[3].startswith("Current thread's C stack")
    assert len(kept) == 4 + 12
