"""Run other people's programs bare and guarded, and show where they differ.

``python compat/run.py`` runs every recipe with the Python that runs it;
``python compat/run.py cpython_pool --python python3.14`` one with another.
Everything that is installed or written is in one folder of the user's cache.
The exit code is 1 when anything differs that is not meant to, or when a recipe
that was asked for by name could not be run.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import recipe as recipes
from environments import environment, identify
from recipe import Recipe, Run
from trial import PASSED, Results, trial

#: Lines of a difference that are shown.
SHOWN = 40


@dataclass
class Comparison:
    """A run of a recipe, bare and guarded.

    Attributes
    ----------
    new : list of str
        Tests that passed bare and do not pass guarded, and are not meant to differ.
    meant : list of str
        Those that are.
    """

    recipe: Recipe
    run: Run
    version: str
    bare: Results
    guarded: Results
    new: list[str]
    meant: list[str]

    @property
    def problem(self) -> str:
        """Why this row proves nothing; empty if it does."""
        if self.recipe.pools and not self.guarded.pools:
            return "no pool was guarded"
        if self.guarded.said:
            return f"poolwarden said: {self.guarded.said[0]}"
        return "" if self.passed(self.bare) > 1 else "nothing passed bare"

    def passed(self, results: Results) -> int:
        """Return how many tests passed, or outputs were as in the bare run."""
        if self.recipe.kind == "tests":
            return sum(outcome == PASSED for outcome in results.outcomes.values())
        return sum(results.outcomes[name] == text for name, text in self.bare.outcomes.items())

    @property
    def ratio(self) -> float:
        """Seconds guarded over seconds bare."""
        return self.guarded.seconds / self.bare.seconds


def compare(recipe: Recipe, run: Run, version: str, bare: Results, guarded: Results) -> Comparison:
    """Return what differs between two runs."""
    if recipe.kind == "tests":
        different = [
            test
            for test, outcome in bare.outcomes.items()
            if outcome == PASSED and guarded.outcomes.get(test, "missing") != PASSED
        ]
    else:
        different = [name for name, text in bare.outcomes.items() if guarded.outcomes[name] != text]
    new = [test for test in different if not recipe.reason(test)]
    meant = [test for test in different if test not in new]
    return Comparison(recipe, run, version, bare, guarded, new, meant)


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    arguments = _parse()
    rows: list[Comparison] = []
    for name in arguments.recipes or recipes.names():
        recipe = recipes.load(name)
        for python in arguments.python or [sys.executable]:
            for row in _run_recipe(recipe, python, arguments.run):
                rows.append(row)
                print(_row(row), flush=True)
                _show(row, arguments.quiet)
    _summarize(rows)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump([_as_json(row) for row in rows], file, indent=1)
    absent = set(arguments.recipes) - {row.recipe.name for row in rows}
    return int(not rows or bool(absent) or any(row.new or row.problem for row in rows))


def _parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="recipe", help=", ".join(recipes.names()))
    parser.add_argument("--python", action="append", help="an interpreter; may be given several times")
    parser.add_argument("--run", help="only the run of this name")
    parser.add_argument("--json", metavar="PATH", help="write every result there")
    parser.add_argument("--quiet", action="store_true", help="show no differences, only the table")
    arguments = parser.parse_args()
    unknown = set(arguments.recipes) - set(recipes.names())
    if unknown:
        parser.error(f"no such recipe: {', '.join(sorted(unknown))}")
    return arguments


def _run_recipe(recipe: Recipe, python: str, only: str | None) -> Iterator[Comparison]:
    version, _ = identify(python)
    skip = recipe.why_not(version)
    if not skip:
        try:
            place = environment(python, recipe.requires)
        except subprocess.CalledProcessError as error:
            skip = f"its environment cannot be made (pip ended with {error.returncode})"
        else:
            if recipe.needs and not place.has(recipe.needs):
                skip = f"this Python has no {recipe.needs}"
    if skip:
        print(f"{recipe.name} on {version}: skipped, {skip}", file=sys.stderr)
        return
    for run in recipe.runs:
        if only not in (None, run.name):
            continue
        bare = trial(recipe, run, place, guarded=False)
        guarded = trial(recipe, run, place, guarded=True)
        yield compare(recipe, run, version, bare, guarded)


_HEADER = (
    "| recipe | run | Python | passed bare | passed guarded | newly failing | meant | guarded pools | time |"
)


def _row(row: Comparison) -> str:
    pools = ", ".join(f"{count} {host}" for host, count in sorted(row.guarded.pools.items()))
    cells = [
        row.recipe.name,
        row.run.name,
        row.version,
        row.passed(row.bare),
        row.passed(row.guarded),
        len(row.new),
        len(row.meant),
        pools or "-",
        f"{row.ratio:.2f} of {row.bare.seconds:.1f} s",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _show(row: Comparison, quiet: bool) -> None:
    """Print what differs in a run, and where to read on."""
    if row.problem:
        print(f"  ! {row.problem}")
    for test in row.meant:
        print(f"  meant: {test}: {row.recipe.reason(test)}")
    for test in row.new:
        print(f"  NEWLY FAILING: {test}")
        if quiet:
            continue
        if row.recipe.kind == "tests":
            print(f"    {row.guarded.outcomes.get(test, 'missing')}: {row.guarded.details.get(test, '')}")
        else:
            before, after = row.bare.outcomes[test].splitlines(), row.guarded.outcomes[test].splitlines()
            for line in list(difflib.unified_diff(before, after, "bare", "guarded", lineterm=""))[:SHOWN]:
                print(f"    {line}")
    if row.new or row.problem:
        print(f"    {row.guarded.log}", flush=True)


def _summarize(rows: list[Comparison]) -> None:
    print(f"\n{_HEADER}\n{'|---' * 9}|")
    for row in rows:
        print(_row(row))
    new = sum(len(row.new) for row in rows)
    problems = sum(bool(row.problem) for row in rows)
    print(f"\n{len(rows)} runs, {new} newly failing, {problems} that prove nothing")


def _as_json(row: Comparison) -> dict[str, Any]:
    return {
        "recipe": row.recipe.name,
        "run": row.run.name,
        "python": row.version,
        "bare": row.bare.outcomes,
        "guarded": row.guarded.outcomes,
        "newly failing": {test: row.guarded.details.get(test, "") for test in row.new},
        "meant": {test: row.recipe.reason(test) for test in row.meant},
        "problem": row.problem,
        "pools": row.guarded.pools,
        "seconds": [row.bare.seconds, row.guarded.seconds],
    }


if __name__ == "__main__":
    sys.exit(main())
