"""Where `POOLWARDEN` reaches: each way to start a program, and each way it may make a pool.

Runnable by itself, with the Python to try::

    python -m tests.activation.probes /usr/bin/python3.13

Makes a virtual environment for each kind of installation, and prints a table.
Each probe is a real program in it that makes a pool and says whether that is
guarded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Seconds for one probe.
BOUND = 60.0
#: What pip is given, by kind of installation.
KINDS = {"pip install .": ["."], "pip install -e .": ["-e", "."]}

PROGRAM = """\
import multiprocessing, os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor

def active(*_):
    # Each would do; the class's name is no proof, the adapter is.
    pool = multiprocessing.get_context("spawn").Pool(1)
    executor = ProcessPoolExecutor(1)
    try:
        return hasattr(pool, "_poolwarden") and hasattr(executor, "_poolwarden")
    finally:
        pool.terminate(), pool.join(), executor.shutdown()

def worker(method, func, *args):
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
        return executor.submit(func, *args).result(50)

def probe(what):
    if what == "main":
        return active()
    if what == "nested":
        return worker("spawn", worker, "forkserver", active)
    if what == "subprocess":
        command = [sys.executable, __file__, "main"]
        return "yes" in subprocess.run(command, capture_output=True, text=True).stdout
    return worker(what, active)

if __name__ == "__main__":
    print("yes" if probe(sys.argv[1]) else "no")
"""

TEST = """\
import program

def test_one():
    assert program.active()

def test_two():
    assert program.active()
"""

CODE = "import program; print('yes' if program.active() else 'no')"


def in_worker(what: str) -> Callable[[str, Path], bool]:
    """Return the probe of a script whose pool is made in such a place."""
    return lambda python, folder: says_yes([python, "program.py", what], folder)


def in_pytest(*options: str) -> Callable[[str, Path], bool]:
    """Return the probe of a test run."""
    return lambda python, folder: (
        "2 passed" in output([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options], folder)
    )


PROBES: dict[str, Callable[[str, Path], bool]] = {
    **{what: in_worker(what) for what in ("main", "fork", "spawn", "forkserver", "nested", "subprocess")},
    "-m": lambda python, folder: says_yes([python, "-m", "program", "main"], folder),
    "-c": lambda python, folder: says_yes([python, "-c", CODE], folder),
    "stdin": lambda python, folder: says_yes([python, "-"], folder, stdin=CODE),
    "pytest": in_pytest(),
    "xdist": in_pytest("-n", "2"),
}


def write_programs(folder: Path) -> None:
    """Write what the probes run."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "test_program.py").write_text(TEST)


def output(command: Sequence[str], folder: Path, stdin: str = "", value: str = "1") -> str:
    """Return what a program in `folder` prints on stdout and stderr, with `POOLWARDEN` set to `value`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("POOLWARDEN", "PYTEST"))}
    kept.pop("PYTHONPATH", None)
    ran = subprocess.run(
        command,
        input=stdin,
        cwd=folder,
        env={**kept, "POOLWARDEN": value, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BOUND,
    )
    return ran.stdout


def says_yes(command: Sequence[str], folder: Path, stdin: str = "") -> bool:
    """Return whether a probe has found its pool guarded."""
    return output(command, folder, stdin).split()[-1:] == ["yes"]


def make_environment(base: str, folder: Path, kind: str) -> str:
    """Return the Python of a new virtual environment with poolwarden and pytest in it.

    Raises
    ------
    subprocess.CalledProcessError
        There is no venv, or pip finds no packages.
    """
    left_out = ("PYTHONPATH", "POOLWARDEN")
    environment = {name: text for name, text in os.environ.items() if name not in left_out}
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([base, "-m", "venv", str(folder)], [*pip, *KINDS[kind], "pytest", "pytest-xdist"]):
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=300)
    return python


def main(base: str) -> int:
    """Print the table for one Python; return 0 if all are guarded."""
    missing = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_programs(folder)
        print(f"{'':18}" + "".join(f"{name:>12}" for name in PROBES))
        for number, kind in enumerate(KINDS):
            python = make_environment(base, folder / str(number), kind)
            found = [probe(python, folder) for probe in PROBES.values()]
            missing += found.count(False)
            print(f"{kind:18}" + "".join(f"{'active' if each else 'NO':>12}" for each in found))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else sys.executable))
