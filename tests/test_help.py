"""What `help` and `dir` show of the package: little, and nothing that is not public."""

from __future__ import annotations

import os
import pydoc
import subprocess
import sys
from pathlib import Path

import poolwarden

#: Two screens of a terminal.
LINES_MAX = 80
#: Columns; the name and the summary are one line of pydoc's.
COLUMNS_MAX = 100


def helped() -> list[str]:
    """Return what ``help(poolwarden)`` prints in a fresh interpreter, line by line."""
    source = str(Path(poolwarden.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", "import poolwarden; help(poolwarden)"],
        env={**os.environ, "PYTHONPATH": source, "PAGER": "cat"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.rstrip().splitlines()


def test_help_is_two_screens_and_begins_with_an_example() -> None:
    lines = helped()
    assert len(lines) <= LINES_MAX
    assert max(map(len, lines)) <= COLUMNS_MAX
    top = "\n".join(lines[:15])
    assert "with poolwarden.guard(Pool(4), timeout=30) as pool:" in top


def test_help_names_all_that_is_public() -> None:
    text = "\n".join(helped())
    assert [name for name in poolwarden.__all__ if name not in text] == []


def test_help_of_a_name_is_whole() -> None:
    text = pydoc.plain(pydoc.render_doc(poolwarden.guard))
    assert "startup_timeout : float, optional" in text
    assert "losses" in pydoc.plain(pydoc.render_doc(poolwarden.Policy))


def test_the_example_is_right() -> None:
    _, _, rest = (poolwarden.__doc__ or "").partition("An example::\n")
    lines = rest.split("\nA task ")[0].splitlines()
    code = "\n".join(line[4:] for line in lines)
    code = code.replace("Pool(4)", "get_context('fork').Pool(4)").replace("Pool\n", "get_context\n", 1)
    names = {"work": abs, "items": range(-3, 0)}
    exec(code, names)
    assert names["results"] == [3, 2, 1]


def test_dir_shows_what_is_public() -> None:
    shown = {name for name in dir(poolwarden) if not name.startswith("__")}
    assert shown == set(poolwarden.__all__)
    assert "__version__" in dir(poolwarden)
    names: dict[str, object] = {}
    exec("from poolwarden import *", names)
    assert set(names) - {"__builtins__"} == set(poolwarden.__all__)


def test_pytest_is_told_not_to_rewrite() -> None:
    assert "PYTEST_DONT_REWRITE" in (poolwarden.__doc__ or "")
