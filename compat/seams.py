"""Check the private names that poolwarden uses, for each supported version of each host.

``python compat/seams.py`` does it with the Python that runs it;
``python compat/seams.py --python python3.10 --python python3.14 joblib`` with
others, and for one distribution. Each version gets a virtual environment (see
`environments`), where ``poolwarden doctor`` looks for the names and `smoke`
runs each host. Prints markdown; ``--into FILE`` puts it between the marks in a
file. The exit code is 1 when a version that can be installed does not pass.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from environments import Environment, clean_env, environment, identify

SMOKE: Final = Path(__file__).parent / "smoke.py"
#: Seconds for one program in an environment.
BOUND: Final = 150.0
MARKS: Final = ("<!-- seams -->", "<!-- end of seams -->")

#: Of each distribution the oldest version that is supported, the newest, and the last of each series between.
VERSIONS: Final = {
    "joblib": ("1.3.0", "1.3.2", "1.4.2", "1.5.3", "1.6.0"),
    "loky": ("3.4.0", "3.4.1", "3.5.6", "3.6.0", "3.7.0"),
    "multiprocess": ("0.70.13", "0.70.14", "0.70.15", "0.70.16", "0.70.17", "0.70.18", "0.70.19"),
    "wrapt": ("1.16.0", "1.17.3", "2.0.1", "2.1.2", "2.2.2", "2.3.0", "2.4.1", "2.5.2"),
}
#: What a distribution is there for, if that is not itself: wrapt patches whatever is there.
HOSTS: Final = {"wrapt": "Python"}


@dataclass
class Cell:
    """What one version of a distribution gave on one Python.

    Attributes
    ----------
    found, needed : int
        Private names, of all hosts that come with it.
    passed, hosts : int
        Hosts, and those whose smoke run passed.
    problems : list of str
        One for each name that is missing and each run that failed.
    broken : list of str
        One for each run that failed and fails bare as well: the host does not
        run on this Python.
    absent : bool
        Whether pip could not install it.
    """

    found: int = 0
    needed: int = 0
    passed: int = 0
    hosts: int = 0
    problems: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    absent: bool = False

    def __str__(self) -> str:
        if self.absent:
            return "no"
        if not self.hosts:
            return "not a host"
        mark = " **!**" if self.problems else " (nor bare)" if self.broken else ""
        return f"{self.found}/{self.needed}, {self.passed}/{self.hosts}" + mark


def main() -> int:
    """Check what the command line asks for and return the exit code."""
    arguments = _parse()
    pythons = arguments.python or [sys.executable]
    wanted = [(name, version) for name in arguments.names or VERSIONS for version in VERSIONS[name]]
    for python in pythons:
        environment(python, [])  # now, so that the wheel is built once
    jobs = [(python, name, version) for python in pythons for name, version in wanted]
    with ThreadPoolExecutor(arguments.jobs) as threads:
        cells = dict(zip(jobs, threads.map(lambda job: _tell(job, examine(*job)), jobs), strict=True))
    text = "\n".join(_report(cells, pythons, arguments.names or list(VERSIONS)))
    print(text)
    if arguments.into:
        put(Path(arguments.into), MARKS, text)
    return int(any(cell.problems for cell in cells.values()))


def _parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="distribution", help=", ".join(VERSIONS))
    parser.add_argument("--python", action="append", help="an interpreter; may be given several times")
    parser.add_argument("--jobs", type=int, default=2, help="how many environments at a time")
    parser.add_argument("--into", metavar="FILE", help="put the tables between the marks in this file")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(VERSIONS)
    if unknown:
        parser.error(f"no such distribution: {', '.join(sorted(unknown))}")
    return arguments


def examine(python: str, name: str, version: str) -> Cell:
    """Return what a version of a distribution gives on a Python."""
    try:
        place = environment(python, [f"{name}=={version}"])
    except subprocess.CalledProcessError:
        return Cell(absent=True)
    ran = _run(place, "-m", "poolwarden", "doctor", "--json")
    try:
        hosts = json.loads(ran.stdout)["hosts"]
    except (ValueError, KeyError):
        return Cell(hosts=1, problems=[f"doctor: {_last_line(ran)}"])
    cell = Cell()
    for host in hosts:
        if host["installed"] and host["version"].partition(" ")[0] == HOSTS.get(name, name):
            _add(cell, host, place)
    return cell


def _add(cell: Cell, host: dict[str, Any], place: Environment) -> None:
    cell.hosts += 1
    cell.found += host["found"]
    cell.needed += host["found"] + len(host["missing"])
    cell.problems += host["missing"]
    if host["problem"]:
        cell.problems.append(f"{host['kind']}: {host['problem']}")
    ran = _run(place, str(SMOKE), host["kind"])
    if ran.returncode == 0:
        cell.passed += 1
        return
    bare = _run(place, str(SMOKE), host["kind"], "bare")
    if bare.returncode == 0:
        cell.problems.append(f"{host['kind']}: {_last_line(ran)}")
    else:
        cell.broken.append(f"{host['kind']}, without a guard as well: {_last_line(bare)}")


def _run(place: Environment, *command: str) -> subprocess.CompletedProcess[str]:
    call = functools.partial(
        subprocess.run,
        [str(place.python), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
        env=clean_env(),
    )
    try:
        return call()
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -1, "", f"took longer than {BOUND:g} s")


def _last_line(ran: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {ran.returncode}"


def _tell(job: tuple[str, str, str], cell: Cell) -> Cell:
    """Say on stderr how far it is: it takes minutes."""
    print(*job, cell, *cell.problems, *cell.broken, file=sys.stderr, sep="  ", flush=True)
    return cell


def _report(cells: dict[tuple[str, str, str], Cell], pythons: list[str], names: list[str]) -> list[str]:
    """Return the tables as lines of markdown, and below each what failed and where."""
    titles = [identify(python)[0] for python in pythons]
    lines: list[str] = []
    for name in names:
        where: dict[str, list[str]] = {}
        lines += [f"| {name} | {' | '.join(titles)} |", f"|---{'|---' * len(titles)}|"]
        for version in VERSIONS[name]:
            row = [cells[python, name, version] for python in pythons]
            lines.append(f"| {version} | {' | '.join(map(str, row))} |")
            for title, cell in zip(titles, row, strict=True):
                for problem in (*cell.problems, *cell.broken):
                    where.setdefault(problem, []).append(f"{version} on {title}")
        found = [f"- {problem}: {', '.join(places)}" for problem, places in where.items()]
        lines += ["", *found, *([""] if found else [])]
    return lines[:-1]


def put(path: Path, marks: tuple[str, str], text: str) -> None:
    """Put a text between two marks in a file."""
    before, _, rest = path.read_text().partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        sys.exit(f"{path} does not have the marks {' and '.join(marks)}")
    path.write_text(f"{before}{marks[0]}\n\n{text}\n\n{marks[1]}{after}")


if __name__ == "__main__":
    sys.exit(main())
