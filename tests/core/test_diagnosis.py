"""The table of verdicts: evidence in, cause out."""

from __future__ import annotations

import sys

import pytest

from poolwarden.core.diagnosis import Evidence, diagnose
from poolwarden.records import CAUSES, WorkerExit

STRONG = "memory cgroup /x: oom_kill 3 → 4"
WEAK = "likely: this machine's oom_kill 3 → 4, no memory cgroup to read"
REASON = "timeout of 5 s"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@pytest.mark.parametrize(
    ("evidence", "signal", "cause", "said"),
    [
        (Evidence(1, -9), "SIGKILL", "signal", ()),
        (Evidence(1, -9, oom=STRONG), "SIGKILL", "oom", (STRONG,)),
        (Evidence(1, -9, oom=WEAK, notes=("n",)), "SIGKILL", "oom", (WEAK, "n")),
        (Evidence(1, -9, killed_by_guard=REASON), "SIGKILL", "killed_by_guard", (REASON,)),
        (Evidence(1, -9, killed_by_guard=REASON, oom=STRONG), "SIGKILL", "killed_by_guard", (REASON,)),
        (Evidence(1, None, killed_by_guard=REASON), None, "killed_by_guard", (REASON,)),
        (Evidence(1, -11), "SIGSEGV", "signal", ()),
        (Evidence(1, -11, oom=STRONG, notes=("n",)), "SIGSEGV", "signal", ("n",)),
        (Evidence(1, -15), "SIGTERM", "signal", ()),
        (Evidence(1, 0), None, "exit", ()),
        (Evidence(1, 3, oom=STRONG), None, "exit", ()),
        (Evidence(1, None, notes=("SIGCHLD is ignored",)), None, "unknown", ("SIGCHLD is ignored",)),
        (Evidence(None, None, oom=STRONG), None, "unknown", (STRONG,)),
    ],
)
def test_diagnose(evidence, signal, cause, said):
    assert cause in CAUSES
    assert diagnose(evidence) == WorkerExit(evidence.pid, evidence.exitcode, signal, cause, said)
