"""Recipes: what to install, what to run, and which differences are meant.

A recipe is one file in ``compat/recipes``; see any of them for the form, and
`Recipe` and `Run` for what each key means.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Run:
    """One command of a recipe.

    Attributes
    ----------
    name : str
        Tells the runs of a recipe apart.
    command : list of str
        ``{python}`` stands for the environment's interpreter, ``{bin}`` for
        its folder of scripts, ``{files}`` for the recipe's own folder.
    env : dict
        Variables beside those of the driver.
    """

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Intended:
    """A difference that is meant.

    Attributes
    ----------
    tests : list of str
        Names of tests. ``*`` stands for anything; the brackets of a parameter are themselves.
    why : str
        One sentence for the reader.
    """

    tests: list[str]
    why: str

    def covers(self, test: str) -> bool:
        """Return whether a test is one of those."""
        patterns = (".*".join(map(re.escape, name.split("*"))) for name in self.tests)
        return any(re.fullmatch(pattern, test) for pattern in patterns)


@dataclass(frozen=True)
class Recipe:
    """What one file in ``compat/recipes`` says.

    Attributes
    ----------
    name, title : str
        Of the file; for the reader.
    kind : str
        ``tests``: the command is pytest, compared test by test. ``output``:
        exit code, output, errors and files are compared.
    requires : list of str
        Pinned requirements.
    runs : list of Run
        What is run, bare and guarded.
    needs : str
        A module without which a Python cannot take part.
    source : str
        A requirement whose source distribution is the working folder.
    inputs : dict
        Files and folders that are copied into the working folder: where to, and from where;
        ``{stdlib}``, ``{repository}`` and ``{files}`` are known.
    ignore : list of str
        Regular expressions of what differs from run to run, such as times.
    pools : bool
        Whether pools must have been guarded in the guarded run.
    python : str
        Oldest Python it is for, such as ``3.13``.
    below : str
        The first Python on which its program does not run bare either; empty if there is none.
    timeout : float
        Seconds one run may take.
    intended : list of Intended
        Differences that are meant.
    """

    name: str
    title: str
    kind: str
    requires: list[str]
    runs: list[Run]
    needs: str = ""
    source: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    pools: bool = True
    python: str = "3.10"
    below: str = ""
    timeout: float = 900.0
    intended: list[Intended] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """The folder of files that belong to this recipe."""
        return FOLDER / self.name

    def why_not(self, version: str) -> str:
        """Return why a Python of this version cannot take part, or nothing."""
        have = _numbers(version)[:2]
        if have < _numbers(self.python):
            return f"needs Python {self.python}"
        if self.below and have >= _numbers(self.below):
            return f"its program needs a Python below {self.below}"
        return ""

    def reason(self, test: str) -> str:
        """Return why a test may differ; empty if it must not."""
        return next((one.why for one in self.intended if one.covers(test)), "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def load(name: str) -> Recipe:
    """Return a recipe by the name of its file.

    Raises
    ------
    FileNotFoundError
        There is no such recipe.
    TypeError
        It has a key that nobody knows, or lacks one.
    """
    with open(FOLDER / f"{name}.toml", "rb") as file:
        data: dict[str, Any] = tomllib.load(file)
    runs = [Run(**run) for run in data.pop("run")]
    intended = [Intended(**one) for one in data.pop("intended", [])]
    return Recipe(name=name, runs=runs, intended=intended, **data)


def names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
