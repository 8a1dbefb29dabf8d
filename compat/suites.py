"""Run the contract suite of each host, for its oldest and its newest version.

``python compat/suites.py --python python3.10 --python python3.14 …`` runs the
host's test files of this checkout in the environment of each version (see
`environments`) and prints a table: version, Python, start method, outcome.
``python compat/suites.py loky`` does so for one host. What is in ``--results``
already and had no failure is not run again, so that a run of an hour can be
continued; ``--into FILE`` puts the table between the marks in a file. The exit
code is 1 when a test failed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from environments import REPOSITORY, cache, clean_env, environment, identify
from seams import VERSIONS, examine, put
from trial import PASSED, read_report

#: Seconds for the suite of one host.
BOUND: Final = 1200.0
MARKS: Final = ("<!-- suites -->", "<!-- end of suites -->")
METHODS: Final = ("fork", "spawn", "forkserver", "loky")
PYTEST: Final = ("pytest==9.0.2",)
NUMPY: Final = ("numpy==2.2.6; python_version < '3.14'", "numpy==2.3.5; python_version == '3.14'")


@dataclass(frozen=True)
class Suite:
    """The tests of one host.

    Attributes
    ----------
    host : str
        What users call it.
    files : tuple of str
        Below ``tests/hosts``.
    distribution : str
        What has the host; empty for the standard library.
    besides : tuple of str
        Requirements without which some of its tests are skipped.
    """

    host: str
    files: tuple[str, ...]
    distribution: str = ""
    besides: tuple[str, ...] = ()

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that it is run for; one that is empty for the standard library."""
        known = VERSIONS.get(self.distribution, ("",))
        return tuple(dict.fromkeys((known[0], known[-1])))

    def title(self, version: str) -> str:
        """Return the name of the host in one version."""
        return f"{self.host} {version}".strip()


SUITES: Final = (
    Suite("multiprocessing.Pool", ("test_pool.py",)),
    Suite("ProcessPoolExecutor", ("test_executor.py", "test_executor_ways.py")),
    Suite("Process", ("test_process.py",)),
    Suite("loky", ("test_loky.py",), "loky"),
    Suite("joblib", ("test_joblib.py", "test_joblib_contract.py"), "joblib", NUMPY),
    Suite("multiprocess", ("test_multiprocess.py",), "multiprocess"),
)

#: Outcomes by start method: how many tests passed, and each that did not, with what it said.
Outcome = dict[str, tuple[int, list[str]]]


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    arguments = _parse()
    path = Path(arguments.results)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    writing = threading.Lock()

    def run(job: tuple[Suite, str, str]) -> None:
        suite, version, python = job
        key = f"{suite.title(version)}, Python {identify(python)[0]}"
        if key in found and not _failed(found[key]):
            return
        outcome = examine_suite(suite, version, python)
        with writing:
            found[key] = outcome
            path.parent.mkdir(parents=True, exist_ok=True)
            # All or nothing: it may be interrupted at any time.
            partial = path.with_name(path.name + ".partial")
            partial.write_text(json.dumps(found, indent=1))
            partial.replace(path)
        print(key, {method: (passed, failed) for method, (passed, failed) in outcome.items()}, flush=True)

    wanted = [suite for suite in SUITES if suite.host in (arguments.hosts or [suite.host])]
    jobs = [(suite, v, python) for python in arguments.python for suite in wanted for v in suite.versions]
    for python in arguments.python:
        environment(python, list(PYTEST))  # now, so that the wheel is built once
    with ThreadPoolExecutor(arguments.jobs) as threads:
        list(threads.map(run, jobs))
    text = "\n".join(table(found, [identify(python)[0] for python in arguments.python]))
    print(text)
    if arguments.into:
        put(Path(arguments.into), MARKS, text)
    return int(any(map(_failed, found.values())))


def _failed(outcome: Outcome) -> bool:
    return any(failed for _, failed in outcome.values())


def _parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    hosts = [suite.host for suite in SUITES]
    parser.add_argument("hosts", nargs="*", metavar="host", help=", ".join(hosts))
    parser.add_argument("--python", action="append", help="an interpreter; may be given several times")
    parser.add_argument("--jobs", type=int, default=1, help="how many suites at a time")
    parser.add_argument("--results", default=str(cache() / "suites.json"), help="where outcomes are kept")
    parser.add_argument("--into", metavar="FILE", help="put the table between the marks in this file")
    arguments = parser.parse_args()
    unknown = set(arguments.hosts) - set(hosts)
    if unknown:
        parser.error(f"no such host: {', '.join(sorted(unknown))}")
    arguments.python = arguments.python or [sys.executable]
    return arguments


def examine_suite(suite: Suite, version: str, python: str) -> Outcome:
    """Return the outcome of a suite; empty where the host does not run bare either."""
    requires = [f"{suite.distribution}=={version}"] if version else []
    if version:
        cell = examine(python, suite.distribution, version)
        if cell.absent or cell.broken:
            return {}
    place = environment(python, [*requires, *suite.besides, *PYTEST])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(place.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        # A version that is older than the Python may use what that has deprecated since.
        command += ["-W", "default::DeprecationWarning"]
        command += [f"tests/hosts/{file}" for file in suite.files]
        env = {**clean_env(), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ran = subprocess.run(
                command, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOUND
            )
        except subprocess.TimeoutExpired:
            return {"any": (0, [f"took longer than {BOUND:g} s"])}
        outcomes, details = read_report(report)
    if ran.returncode > 1 or not outcomes:
        return {"any": (0, [f"pytest ended with {ran.returncode}: {ran.stdout.decode()[-300:]}"])}
    return by_method(outcomes, details)


def by_method(outcomes: dict[str, str], details: dict[str, str]) -> Outcome:
    """Return outcomes by the start method that is in a test's name; ``any`` where there is none."""
    found: Outcome = {}
    for name, outcome in outcomes.items():
        parameters = re.split(r"[\[\]-]", name)
        method = next((method for method in METHODS if method in parameters), "any")
        passed, failed = found.get(method, (0, []))
        if outcome == PASSED:
            passed += 1
        elif outcome != "skipped":
            failed = [*failed, f"{name}: {' '.join(details.get(name, outcome).split())[:200]}"]
        found[method] = passed, failed
    return found


def table(found: dict[str, Any], pythons: list[str]) -> list[str]:
    """Return the table as lines of markdown, and below it what failed."""
    lines = [f"| host | start method | {' | '.join(pythons)} |", f"|---|---{'|---' * len(pythons)}|"]
    failures = []
    for suite in SUITES:
        for version in suite.versions:
            row = [found.get(f"{suite.title(version)}, Python {python}") for python in pythons]
            for method in (*METHODS, "any"):
                if not any(outcome and method in outcome for outcome in row):
                    continue
                cells = [_cell(outcome, method) for outcome in row]
                lines.append(f"| {suite.title(version)} | {method} | {' | '.join(cells)} |")
                for python, outcome in zip(pythons, row, strict=True):
                    for failed in (outcome or {}).get(method, (0, []))[1]:
                        # What it said is in the results, with paths of this machine.
                        name = failed.partition(": ")[0]
                        failures.append(f"- {suite.title(version)} on {python}: `{name}`")
    return [*lines, *(["", *failures] if failures else [])]


def _cell(outcome: Any, method: str) -> str:
    if outcome is None:
        return "not run"
    if method not in outcome:
        return "-"
    passed, failed = outcome[method]
    return f"**{len(failed)} of {passed + len(failed)} failed**" if failed else f"green, {passed}"


if __name__ == "__main__":
    sys.exit(main())
