"""What a program that is guarded says by itself: on stderr, in the log, in the report, by its exit status.

Siblings: the report's variable alone, beside POOLWARDEN on and off; ends of a program that ask nobody
(SIGTERM, SIGKILL, os._exit, a handler of its own); one loss, hundreds in one pool, many pools; no logging, a
configured one, one that is switched off; losses among the results of a program that does not look, one that
exits by itself, one that loses nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import poolwarden
from poolwarden import Policy
from poolwarden.options import PARSERS
from tests.contract.waiting import DEADLINE, eventually

SOURCE = Path(poolwarden.__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork and SIGKILL")

PRELUDE = """
import logging, multiprocessing, os, signal, sys, time
from poolwarden.testing import hang, kill_self, only_for
def make(workers=2): return multiprocessing.get_context("fork").Pool(workers)
def die(n): os.kill(os.getpid(), 9)
def lose(count=1):
    with make() as pool:
        handles = [pool.apply_async(die, (n,)) for n in range(count)]
        for handle in handles:
            try: handle.get(30)
            except Exception as error: assert type(error).__name__ == "WorkerLostError", error
"""


def start(tmp_path, program, *command, **variables):
    script = tmp_path / "program.py"
    script.write_text(PRELUDE + textwrap.dedent(program))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POOLWARDEN")}
    path = os.pathsep.join([str(SOURCE / "poolwarden/cli/follow"), str(SOURCE)])
    return subprocess.Popen(
        [sys.executable, *command, str(script)],
        env={**clean, "PYTHONPATH": path, **variables},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path, program, *command, **variables):
    """Return exit status, output and lines on stderr."""
    process = start(tmp_path, program, *command, **variables)
    try:
        out, err = process.communicate(timeout=3 * DEADLINE)
    finally:
        process.kill()
    return process.returncode, out, err.splitlines()


RUN = ("-m", "poolwarden", "run")


def counts(path):
    return json.loads(path.read_text())["counts"]


def test_the_reports_variable_alone_guards(tmp_path):
    status, _, err = run(tmp_path, "lose()", POOLWARDEN_REPORT="r.json")
    assert status == 0, err
    assert counts(tmp_path / "r.json") == {"task_lost": 1}


@pytest.mark.parametrize("value", ["0", "off", ""])
def test_off_beside_the_reports_variable_is_off(tmp_path, value):
    program = "print(type(make(1)).__module__); os._exit(0)"
    assert run(tmp_path, program, POOLWARDEN=value, POOLWARDEN_REPORT="r.json")[1:] == (
        "multiprocessing.pool\n",
        [],
    )


def test_the_options_beside_the_reports_variable_count(tmp_path):
    program = "print(make(1)._poolwarden.guard.policy.timeout); os._exit(0)"
    assert run(tmp_path, program, POOLWARDEN="timeout=7", POOLWARDEN_REPORT="r.json")[1] == "7.0\n"


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "os._exit", "handler"])
def test_a_report_is_there_though_the_program_was_ended_at_once(tmp_path, end):
    program = f"""
    if {end!r} == "handler":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
    pool = make()
    for n in range(3):
        try: pool.apply(die, (n,))
        except Exception: pass
    assert {end!r} == "handler" or signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    print("lost", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
    os._exit(3)
    """
    process = start(tmp_path, program, POOLWARDEN_REPORT="r.json")
    try:
        assert process.stdout.readline() == "lost\n"
        path = tmp_path / "r.json"
        eventually(lambda: path.exists() and counts(path).get("task_lost") == 3, "all losses in the report")
        if end == "os._exit":
            (tmp_path / "go").touch()
        else:
            process.send_signal(signal.SIGKILL if end == "SIGKILL" else signal.SIGTERM)
        process.wait(DEADLINE)
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)
    assert process.returncode == {"SIGTERM": -15, "SIGKILL": -9}.get(end, 3)
    assert counts(path)["task_lost"] == 3
    assert {each.name for each in tmp_path.iterdir()} - {"go"} == {"program.py", "r.json"}


def test_a_report_that_was_asked_for_by_name_is_there_after_sigterm_though_nothing_happened(tmp_path):
    program = "pool = make()\npool.apply(abs, (-1,))\nprint('made', flush=True)\ntime.sleep(60)"
    process = start(tmp_path, program, *RUN, "--report", "r.json")
    try:
        assert process.stdout.readline() == "made\n"
        eventually((tmp_path / "r.json").exists, "the report")
        process.terminate()
        assert process.wait(DEADLINE) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)
    assert counts(tmp_path / "r.json") == {}


def test_a_few_losses_have_a_line_each_with_the_cause_and_the_rest_a_count(tmp_path):
    status, _, err = run(tmp_path, "lose(40)", POOLWARDEN="1")
    assert status == 0, err
    *losses, more, end = err
    assert len(losses) == 5
    assert all("task_lost: The worker running __main__.die" in line for line in losses)
    assert all(line.endswith("(SIGKILL)") for line in losses)
    assert more.endswith(": ... and 35 more")
    assert end == "poolwarden: 40 tasks lost"


def test_many_pools_do_not_fill_the_terminal(tmp_path):
    program = """
    for _ in range(12):
        lose(7)
    """
    _, _, err = run(tmp_path, program, POOLWARDEN="1")
    assert len(err) <= 23, err
    hidden = sum(int(line.split("and ")[1].split(" ")[0]) for line in err if "... and" in line)
    assert hidden + sum("task_lost" in line for line in err) == 84
    assert err[-1] == "poolwarden: 84 tasks lost"


def test_a_configured_logger_gets_all_of_them(tmp_path):
    program = """
    fields = "%(poolwarden_kind)s %(poolwarden_function)s %(poolwarden_cause)s"
    logging.basicConfig(filename="log", format=fields)
    lose(40)
    """
    _, _, err = run(tmp_path, program, POOLWARDEN="1")
    assert (tmp_path / "log").read_text().splitlines() == ["task_lost __main__.die signal"] * 40
    assert err == ["poolwarden: 40 tasks lost"]


@pytest.mark.parametrize(
    "off",
    [
        "logging.lastResort = None",
        "logging.getLogger('poolwarden').setLevel('CRITICAL')",
        "logging.disable()",
    ],
)
def test_logging_that_was_switched_off_stays_off(tmp_path, off):
    assert run(tmp_path, f"import poolwarden; poolwarden.install()\n{off}\nlose(9)") == (0, "", [])


def test_a_pool_that_lost_nothing_says_nothing(tmp_path):
    program = "with make() as pool: print(pool.map(abs, range(-3, 0)))"
    for command, variables in (((), {"POOLWARDEN": "losses=return"}), ((*RUN, "--losses", "return"), {})):
        assert run(tmp_path, program, *command, **variables) == (0, "[3, 2, 1]\n", [])


LOOKS_AT_NOTHING = """
with make() as pool:
    results = pool.map(only_for(2, kill_self(), only_for(3, hang(), abs)), range(5), 1)
print(len(results))
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.mark.parametrize("way", ["variable", "run"])
def test_a_program_that_does_not_look_ends_with_a_line(tmp_path, way):
    options = {"POOLWARDEN": "losses=return,timeout=0.5"} if way == "variable" else {}
    command = () if way == "variable" else (*RUN, "--losses", "return", "--timeout", "0.5")
    status, out, err = run(tmp_path, LOOKS_AT_NOTHING, *command, POOLWARDEN_REPORT="r.json", **options)
    assert (status, out) == (0, "5\n")
    told = "poolwarden: 1 task lost, 1 timed out; their errors stand among the results; the report is "
    assert err[-1] == f"{told}{tmp_path}/r.json"
    assert sum(line.startswith("poolwarden:") for line in err) == 1


@pytest.mark.parametrize(("own", "status"), [("0", 75), ("3", 3)])
def test_fail_on_loss(tmp_path, own, status):
    command = (*RUN, "--losses", "return", "--timeout", "0.5", "--fail-on-loss")
    assert run(tmp_path, LOOKS_AT_NOTHING, *command, STATUS=own)[0] == status


def test_fail_on_loss_of_a_healthy_program_is_no_failure(tmp_path):
    assert run(tmp_path, "with make() as pool: pool.map(abs, [1])", *RUN, "--fail-on-loss")[0] == 0
    assert run(tmp_path, "sys.exit('odd')", *RUN, "--fail-on-loss")[0] == 1


def test_a_retried_task_is_told_and_is_no_failure(tmp_path):
    program = """
    def flaky(path):
        if not os.path.exists(path):
            open(path, "w").close()
            os.kill(os.getpid(), 9)
        return 7
    with make() as pool: print(pool.apply(flaky, ("once",)))
    """
    status, out, err = run(tmp_path, program, *RUN, "--retries", "1", "--fail-on-loss")
    assert (status, out, err) == (0, "7\n", ["poolwarden: 1 retried"])


def test_a_worker_and_a_fork_say_nothing_of_their_parents_losses(tmp_path):
    program = """
    lose()
    pid = os.fork()
    if not pid:
        sys.exit()
    os.waitpid(pid, 0)
    with make() as pool: pool.apply(abs, (-1,))
    """
    err = run(tmp_path, program, POOLWARDEN="1")[2]
    assert [line for line in err if line.startswith("poolwarden:")] == ["poolwarden: 1 task lost"]


def test_run_takes_every_option_that_the_variable_takes(tmp_path):
    values = {"losses": "return", "cancel_running": "yes"}
    given = [f"--{name.replace('_', '-')}={values.get(name, 3)}" for name in PARSERS]
    program = "print(make(1)._poolwarden.guard.policy, flush=True); os._exit(0)"
    expected = Policy.from_env(",".join(f"{name}={values.get(name, 3)}" for name in PARSERS))
    assert run(tmp_path, program, *RUN, *given) == (0, f"{expected}\n", [])
