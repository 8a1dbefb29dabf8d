"""``poolwarden doctor``: what it says of this machine, and of ones that lack something."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import poolwarden
from poolwarden.cli import doctor, doctor_checks
from poolwarden.hosts import registry
from poolwarden.hosts.pool.multiprocessing import MultiprocessingPool
from poolwarden.hosts.registry import Host
from poolwarden.system import capabilities as abilities_module
from poolwarden.system.patches import Seam, attributes_of
from tests.contract.waiting import DEADLINE

SOURCE = Path(poolwarden.__file__).parents[1]


def doctored(*options, python=(), **variables):
    """Return the finished run of a real doctor in a new interpreter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POOLWARDEN")}
    return subprocess.run(
        [sys.executable, *python, "-m", "poolwarden", "doctor", *options],
        env={**environment, "PYTHONPATH": str(SOURCE), **variables},
        capture_output=True,
        text=True,
        timeout=6 * DEADLINE,
    )


def found_with(monkeypatch, **variables):
    """Return what is found in this process, without starting another."""
    for name in [name for name in os.environ if name.startswith("POOLWARDEN")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor_checks, "_starts", lambda: True)
    return doctor_checks.examine()


def test_a_real_run_can_be_pasted():
    ran = doctored(SECRET_TOKEN="hunter2-hunter2", POOLWARDEN="timeout=30")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.startswith("poolwarden doctor: every installed host can be guarded\n")
    assert all(len(line) < 100 for line in ran.stdout.splitlines())
    assert "multiprocessing.Pool" in ran.stdout
    assert "$POOLWARDEN" in ran.stdout
    assert "timeout=30" in ran.stdout
    assert "hunter2" not in ran.stdout
    home = os.path.expanduser("~")
    assert home == "/" or f"{home}/" not in ran.stdout


def test_json_says_the_same():
    ran = doctored("--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert found["schema"] == 1
    assert found["ok"] is True
    assert [host["kind"] for host in found["hosts"]] == [host.kind for host in registry.HOSTS]
    assert all(host["found"] for host in found["hosts"] if host["installed"])
    assert {able["name"] for able in found["abilities"]} >= {"pidfds", "cgroup counter", "Python stacks"}


def test_without_site_it_says_that_nothing_starts():
    """-S hides what is installed, wrapt included: that is shown, and nothing raises."""
    if SOURCE.name == "site-packages":
        pytest.skip("wrapt is found beside an installed poolwarden, by the same path")
    ran = doctored("--json", python=["-S"])
    assert ran.stderr == ""
    found = json.loads(ran.stdout)
    assert found["versions"]["wrapt"].startswith("could not be checked")
    assert "Python runs with -S" in found["POOLWARDEN"]["active"]


def test_a_missing_private_name_is_named(monkeypatch):
    class Changed:
        """A pool whose library has changed."""

        def __init__(self):
            self._here = 1

    seams = (*attributes_of(Changed, ("_here", "_gone")), Seam(Changed, "_moved"))
    monkeypatch.setattr(MultiprocessingPool, "all_seams", classmethod(lambda cls: seams))
    found = found_with(monkeypatch)
    (pool,) = [host for host in found["hosts"] if host["kind"] == "multiprocessing.Pool"]
    assert pool["found"] == 1
    assert [text.partition(" ")[0].rpartition(".")[2] for text in pool["missing"]] == ["_gone", "_moved"]
    assert not pool["can_be_guarded"]
    assert not found["ok"]
    text = "\n".join(doctor.lines(found))
    assert text.startswith("poolwarden doctor: cannot be guarded: multiprocessing.Pool")
    assert "_gone does not exist" in " ".join(text.split())


def test_a_host_that_is_not_installed_changes_nothing(monkeypatch):
    absent = Host("no_such_host.pool", "no_such_host.Pool", "no-such-host")
    monkeypatch.setattr(doctor_checks, "HOSTS", (*registry.HOSTS, absent))
    found = found_with(monkeypatch)
    assert found["ok"]
    assert found["hosts"][-1]["installed"] is False
    assert any("no_such_host.Pool" in line and "not installed" in line for line in doctor.lines(found))


@pytest.mark.parametrize("error", [RuntimeError("broken here"), SystemExit(3)], ids=repr)
def test_a_host_that_cannot_be_imported_is_shown(monkeypatch, error):
    def load(host):
        raise error

    monkeypatch.setattr(doctor_checks, "HOSTS", (Host("multiprocessing.pool", "a broken host"),))
    monkeypatch.setattr(doctor_checks, "load", load)
    stream = io.StringIO()
    monkeypatch.setattr(doctor_checks, "_starts", lambda: True)
    assert doctor.run(stream) == 1
    text = " ".join(stream.getvalue().split())
    assert f"could not be checked: {type(error).__name__}: {error}" in text


def test_a_check_that_fails_is_shown(monkeypatch):
    def check():
        raise OSError("no such luck")

    monkeypatch.setitem(abilities_module._CHECKS, "pidfds", (check, "much"))
    found = found_with(monkeypatch)
    (pidfds,) = [able for able in found["abilities"] if able["name"] == "pidfds"]
    assert pidfds["available"] is None
    text = " ".join(" ".join(doctor.lines(found)).split())
    assert "unknown: could not be checked: OSError('no such luck'). Without: much" in text


def test_no_memory_means_that_nothing_can_be_guarded(monkeypatch):
    def full(workers, pickler_name):
        raise poolwarden.ConfigurationError("found no place")

    monkeypatch.setattr(doctor_checks, "PoolMemory", full)
    found = found_with(monkeypatch)
    assert not found["ok"]
    assert found["shared memory"]["kind"].endswith("found no place")
    assert doctor.lines(found)[0] == "poolwarden doctor: no pool can be guarded"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (None, "no: POOLWARDEN is not set (POOLWARDEN=1 would be seen)"),
        ("off", "no: POOLWARDEN='off' means off"),
        ("tmeout=3", "no: POOLWARDEN='tmeout=3' cannot be read"),
        ("timeout=3", "yes"),
    ],
)
def test_why_the_variable_is_not_active(monkeypatch, value, answer):
    found = found_with(monkeypatch, **({} if value is None else {"POOLWARDEN": value}))
    assert found["POOLWARDEN"]["active"].startswith(answer)


def test_the_home_directory_is_not_shown(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    found = found_with(monkeypatch, POOLWARDEN_REPORT="/home/somebody/a.html", POOLWARDEN="/home/somebody2")
    assert found["POOLWARDEN"]["$POOLWARDEN_REPORT"] == "~/a.html"
    assert found["POOLWARDEN"]["$POOLWARDEN"] == "/home/somebody2"
