"""One run of a recipe, and what came of it as a table of named results.

A test suite gives one result per test, from pytest's JUnit report. Any other
program gives a few: its exit code, what it printed, the files it left, and
whether all of its processes ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from environments import REPOSITORY, Environment, cache, clean_env, source
from recipe import Recipe, Run

#: Seconds for one test; one that takes longer has failed.
TEST_BOUND = 180
#: Seconds for a program's other processes to end once it has.
ENDING = 5.0
PASSED = "passed"


@dataclass
class Results:
    """What one run gave.

    Attributes
    ----------
    outcomes : dict
        By test name: ``passed``, ``skipped``, ``failed`` or ``error``; or, for
        other programs, the text itself.
    details : dict
        What a failed test said.
    seconds : float
        From start to end.
    pools : dict
        Guarded pools by host; a lower bound, see `witness`.
    said : list of str
        Lines that poolwarden wrote to stderr.
    log : Path
        Everything that was printed.
    """

    outcomes: dict[str, str]
    details: dict[str, str]
    seconds: float
    log: Path
    pools: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def trial(recipe: Recipe, run: Run, place: Environment, *, guarded: bool) -> Results:
    """Return the results of one run of a recipe, bare or guarded."""
    name = f"{recipe.name}-{run.name}-{place.version}"
    # One path for both runs, so that paths in their output are the same.
    work = cache() / "work" / name
    logs = cache() / "logs"
    _prepare(work, recipe, place)
    logs.mkdir(parents=True, exist_ok=True)
    stem = logs / f"{name}-{'guarded' if guarded else 'bare'}"
    for suffix in (".xml", ".pools"):
        stem.with_name(stem.name + suffix).unlink(missing_ok=True)
    report, witness = (stem.with_name(stem.name + suffix) for suffix in (".xml", ".pools"))
    env = {**clean_env(), "PYTHONHASHSEED": "0", "PYTHONFAULTHANDLER": "1", "COMPAT_WITNESS": str(witness)}
    if recipe.kind == "tests":
        options = ["-p no:cacheprovider", f"--timeout={TEST_BOUND}", f"--junit-xml={report}"]
        env["PYTEST_ADDOPTS"] = " ".join([*options, "-o junit_family=xunit2"])
    env.update(run.env)
    if guarded:
        env["POOLWARDEN"] = "1"
    names = {"python": place.python, "bin": place.python.parent, "files": recipe.files}
    command = [part.format(**names) for part in run.command]
    begun = time.monotonic()
    code, out, err, alive = _execute(command, work, env, recipe.timeout)
    seconds = time.monotonic() - begun
    log = stem.with_name(stem.name + ".log")
    log.write_text(f"$ {' '.join(command)}\n{out}\n-- stderr\n{err}\n-- exit code {code}\n")
    if recipe.kind == "tests":
        outcomes, details = read_report(report)
    else:
        outcomes, details = _observe(recipe, code, out, err, work), {}
    outcomes["all processes ended"] = "failed" if alive else PASSED
    found = Results(outcomes, details, seconds, log, _count(witness))
    found.said = [line for line in err.splitlines() if "poolwarden:" in line]
    return found


def _prepare(work: Path, recipe: Recipe, place: Environment) -> None:
    shutil.rmtree(work, ignore_errors=True)
    if recipe.source:
        shutil.copytree(source(place.python, recipe.source), work)
    work.mkdir(parents=True, exist_ok=True)
    names = {"stdlib": place.stdlib, "repository": REPOSITORY, "files": recipe.files}
    for target, origin in recipe.inputs.items():
        path = Path(origin.format(**names))
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, work / target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(path, work / target)


def _execute(command: list[str], work: Path, env: dict[str, str], bound: float) -> tuple[int, str, str, bool]:
    """Return exit code, output, errors, and whether a process of its group outlived it."""
    # Files, not pipes: whoever is left over would keep a pipe open.
    out, err = (work.with_name(work.name + suffix) for suffix in (".out", ".err"))
    with open(out, "wb") as output, open(err, "wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = process.wait(bound)
        except subprocess.TimeoutExpired:
            code = -1
            _signal_group(process.pid, signal.SIGABRT)  # the stacks, for the log
            time.sleep(1)
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
        finally:
            alive = not _group_ends(process.pid)
            _signal_group(process.pid, signal.SIGKILL)
    return code, out.read_text(errors="replace"), err.read_text(errors="replace"), alive


def _group_ends(group: int) -> bool:
    deadline = time.monotonic() + ENDING
    while time.monotonic() < deadline:
        if not _signal_group(group, 0):
            return True
        time.sleep(0.02)
    return False


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group that was started here; return whether it exists."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


def read_report(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return outcome and message by test; a run that was stopped has no report, and no test has passed."""
    outcomes: dict[str, str] = {}
    details: dict[str, str] = {}
    if not path.exists():
        return outcomes, details
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        outcome = PASSED
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = {"failure": "failed"}.get(child.tag, child.tag)
                details[name] = (child.get("message") or "")[:500]
        # A test that passes and whose tear-down fails is there twice.
        if outcomes.get(name, PASSED) == PASSED:
            outcomes[name] = outcome
    return outcomes, details


def _observe(recipe: Recipe, code: int, out: str, err: str, work: Path) -> dict[str, str]:
    """Return what a program without tests gave, without what differs from run to run."""
    files = []
    for path in sorted(work.rglob("*")):
        if path.is_file():
            files.append(f"{path.relative_to(work)} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    seen = {"exit code": str(code), "output": out, "errors": err, "files": "\n".join(files)}
    for pattern in recipe.ignore:
        seen = {name: re.sub(pattern, "...", text) for name, text in seen.items()}
    return seen


def _count(witness: Path) -> dict[str, int]:
    pools: dict[str, int] = {}
    if witness.exists():
        for line in witness.read_text().splitlines():
            count, _, host = line.partition(" ")
            pools[host] = pools.get(host, 0) + int(count)
    return pools
