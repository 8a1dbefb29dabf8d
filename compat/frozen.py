"""Freeze a program that guards its pools, and run what comes of it.

``python compat/frozen.py`` does it with the Python that runs it, ``--python
python3.10`` with another. PyInstaller (in an environment of its own, see
`environments`) makes a folder and a single file of `frozen_program`, without
any option that names poolwarden. The exit code is 1 unless each of them loses
the tasks it should, and no other, under each start method, guarded by itself
and by ``POOLWARDEN``, and then writes a report.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from environments import clean_env, environment

PROGRAM: Final = Path(__file__).parent / "frozen_program.py"
REQUIRES: Final = ["pyinstaller==6.22.3"]
#: Seconds to freeze a program, and to run it.
BOUND: Final = 400.0
FORMS: Final = ("onedir", "onefile")


def main() -> int:
    """Freeze and run as the command line asks, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter; may be given several times")
    wrong = 0
    for python in parser.parse_args().python or [sys.executable]:
        place = environment(python, REQUIRES)
        for form in FORMS:
            with tempfile.TemporaryDirectory() as scratch:
                problem = _problem(_frozen(place.python, form, Path(scratch)), Path(scratch))
            print(f"{place.version}, {form}: {problem or 'as it should be'}", flush=True)
            wrong += bool(problem)
    return int(wrong > 0)


def _frozen(python: Path, form: str, folder: Path) -> Path:
    """Return the program that PyInstaller makes."""
    command = [python, "-m", "PyInstaller", f"--{form}", "--log-level=ERROR", "--name=program"]
    folders = [f"--distpath={folder}", f"--workpath={folder}/work", f"--specpath={folder}"]
    subprocess.run([*command, *folders, PROGRAM], check=True, timeout=BOUND, env=clean_env())
    made = folder / "program"
    return made / "program" if made.is_dir() else made


def _problem(program: Path, folder: Path) -> str:
    """Return what is wrong with what the program prints, or nothing."""
    methods = multiprocessing.get_all_start_methods()
    each = "0 1 4 WorkerLostError 16 25"
    kinds = (("Pool", each), ("timeout", "TaskTimeoutError"), ("executor", each))
    found = _printed([program], {})
    if found != [f"{method} {name} {said}" for method in methods for name, said in kinds]:
        return "\n".join(["guarded by itself it printed:", *found])
    report = folder / "report.json"
    found = _printed([program, "variable"], {"POOLWARDEN": "1", "POOLWARDEN_REPORT": str(report)})
    if found != [f"{method} variable WorkerLostError" for method in methods]:
        return "\n".join(["guarded by POOLWARDEN it printed:", *found])
    return "" if report.exists() else "it wrote no report"


def _printed(command: list[str | Path], variables: dict[str, str]) -> list[str]:
    env = {**clean_env(), **variables}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, env=env)
    return ran.stdout.splitlines() + ([ran.stderr] if ran.returncode else [])


if __name__ == "__main__":
    sys.exit(main())
