"""Programs that lose things, each run in an interpreter of its own by `run`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import poolwarden
from tests.contract.waiting import DEADLINE

SOURCE = Path(poolwarden.__file__).parents[1]

#: What every program begins with; `lose` makes a pool whose one task dies.
PRELUDE = """
import multiprocessing, os, subprocess, sys, time
from poolwarden import guard, report
from poolwarden.testing import kill_self
def lose(method="fork"):
    with guard(multiprocessing.get_context(method).Pool(1)) as pool:
        try:
            pool.apply(kill_self(9))
        except Exception as error:
            assert type(error).__name__ == "WorkerLostError", error
def nap(seconds): time.sleep(seconds)
"""


def run(program: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Return the finished run of a program behind `PRELUDE`; its main part is indented under ``main``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POOLWARDEN")}
    code = f"{PRELUDE}\nif __name__ == '__main__':\n{textwrap.indent(textwrap.dedent(program), '    ')}"
    folder = Path(str(arguments[0])).parent
    script = folder / "program.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env={**clean, "PYTHONPATH": str(SOURCE), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
