"""What ``compat/run.py`` takes for a difference, and that every recipe can be read."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "compat"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the modules of the driver, which import each other as programs do."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("run")


@pytest.fixture
def make(driver: Any) -> Any:
    """Return ``make(kind, bare, guarded, **more)``, which compares two made-up runs."""

    def make(kind: str, bare: dict[str, str], guarded: dict[str, str], **more: Any) -> Any:
        intended = [driver.recipes.Intended(["*::meant", "*::case[1-*]"], "For a reason.")]
        recipe = driver.Recipe("made-up", "", kind, [], [], intended=intended, pools=more.pop("pools", False))
        bare_run = driver.Results(bare, {}, 2.0, Path("bare.log"))
        guarded_run = driver.Results(guarded, {}, 3.0, Path("guarded.log"), **more)
        return driver.compare(recipe, driver.Run("run", []), "3.13.0", bare_run, guarded_run)

    return make


ALL_PASSED = {"t::a": "passed", "t::b": "passed"}


def test_two_runs_that_are_the_same_prove_something(make: Any) -> None:
    same = make("tests", ALL_PASSED, ALL_PASSED)
    assert (same.new, same.meant, same.problem, same.ratio) == ([], [], "", 1.5)
    assert same.passed(same.bare) == same.passed(same.guarded) == 2


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped", None])
def test_a_test_that_no_longer_passes_is_newly_failing(make: Any, outcome: str | None) -> None:
    guarded = {"t::a": "passed"} if outcome is None else {"t::a": "passed", "t::b": outcome}
    assert make("tests", ALL_PASSED, guarded).new == ["t::b"]


def test_a_test_that_failed_before_is_not(make: Any) -> None:
    bare = {"t::a": "passed", "t::b": "failed", "t::c": "skipped"}
    assert make("tests", bare, {"t::a": "passed", "t::b": "error"}).new == []


@pytest.mark.parametrize("name", ["t::meant", "t::case[1-a]"])
def test_what_the_recipe_says_is_meant_is_not_new(make: Any, name: str) -> None:
    found = make("tests", {**ALL_PASSED, name: "passed"}, {**ALL_PASSED, name: "failed"})
    assert (found.new, found.meant) == ([], [name])
    assert found.recipe.reason(name) == "For a reason."
    assert found.recipe.reason("t::case[2]") == ""


def test_output_is_compared_as_it_is(make: Any) -> None:
    bare = {"exit code": "0", "output": "1\n2\n", "files": ""}
    found = make("output", bare, {**bare, "output": "2\n1\n"})
    assert found.new == ["output"]
    assert (found.passed(found.bare), found.passed(found.guarded)) == (3, 2)


def test_a_run_proves_nothing_if_no_pool_was_guarded(make: Any) -> None:
    assert make("tests", ALL_PASSED, ALL_PASSED, pools=True).problem == "no pool was guarded"


def test_nor_if_poolwarden_complained(make: Any) -> None:
    said = ["poolwarden: it is not guarded"]
    assert "it is not guarded" in make("tests", ALL_PASSED, ALL_PASSED, said=said).problem


def test_nor_if_nothing_passed(make: Any) -> None:
    only = {"all processes ended": "passed"}
    assert make("tests", only, only).problem == "nothing passed bare"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("recipes/*.toml")))
def test_a_recipe_can_be_read_and_says_what_it_needs(driver: Any, name: str) -> None:
    recipe = driver.recipes.load(name)
    assert recipe.title
    assert recipe.kind in ("tests", "output")
    assert recipe.runs
    assert all(run.command for run in recipe.runs)
    for requirement in recipe.requires:
        assert re.match(r"[\w.-]+==[\w.]+", requirement), f"{requirement} is not pinned"
    for one in recipe.intended:
        assert one.why.endswith("."), "a sentence for the reader"
        assert f"\n- {name}: {one.why}\n" in (FOLDER / "README.md").read_text(encoding="utf-8")
    for origin in recipe.inputs.values():
        if origin.startswith("{files}"):
            assert Path(origin.format(files=recipe.files)).exists()


def test_a_python_that_cannot_take_part_is_told(driver: Any) -> None:
    recipe = driver.Recipe("made-up", "", "tests", [], [], python="3.11", below="3.14")
    assert recipe.why_not("3.10.13") == "needs Python 3.11"
    assert recipe.why_not("3.11.0") == recipe.why_not("3.13.9") == ""
    assert "below 3.14" in recipe.why_not("3.14.0")


def test_a_key_that_nobody_knows_is_refused(
    driver: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver.recipes, "FOLDER", tmp_path)
    (tmp_path / "bad.toml").write_text('title = "x"\nkind = "tests"\nrequires = []\nrun = []\ntimout = 3\n')
    with pytest.raises(TypeError, match="timout"):
        driver.recipes.load("bad")


def test_a_recipe_that_was_asked_for_and_cannot_be_run_is_a_failure(
    driver: Any, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    same = make("tests", ALL_PASSED, ALL_PASSED)
    same.recipe, same.guarded.pools = driver.recipes.load("tqdm"), {"Pool": 1}
    monkeypatch.setattr(driver, "_run_recipe", lambda recipe, *_: [same] if recipe.name == "tqdm" else [])
    monkeypatch.setattr(sys, "argv", ["run.py", "tqdm"])
    assert driver.main() == 0
    monkeypatch.setattr(sys, "argv", ["run.py", "tqdm", "flake8"])
    assert driver.main() == 1


def test_suites_go_on_where_they_were_stopped(
    driver: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suites = importlib.import_module("suites")
    outcomes = {"Process": {"fork": (3, [])}, "loky": {"loky": (2, ["T::test_a: no"])}}
    ran: list[str] = []

    def examine_suite(suite: Any, version: str, python: str) -> Any:
        ran.append(suite.title(version))
        if len(ran) == 3:
            raise KeyboardInterrupt
        return outcomes[suite.host]

    monkeypatch.setattr(suites, "environment", lambda *_: None)
    monkeypatch.setattr(suites, "examine_suite", examine_suite)
    monkeypatch.setattr(suites, "identify", lambda python: ("3.13.0", Path()))
    command = ["suites.py", "Process", "loky", "--results", str(tmp_path / "results.json")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(KeyboardInterrupt):
        suites.main()
    assert suites.main() == 1
    oldest, newest = suites.VERSIONS["loky"][0], suites.VERSIONS["loky"][-1]
    assert ran == ["Process", f"loky {oldest}", f"loky {newest}", f"loky {oldest}", f"loky {newest}"]


def test_outcomes_of_a_suite_are_told_by_start_method(driver: Any) -> None:
    suites = importlib.import_module("suites")
    outcomes = {
        "T::test_a[fork-1]": "passed",
        "T::test_a[forkserver]": "failed",
        "T::test_b[1-spawn]": "skipped",
        "T::test_c": "error",
    }
    found = suites.by_method(outcomes, {"T::test_c": "no"})
    assert found == {
        "fork": (1, []),
        "forkserver": (0, ["T::test_a[forkserver]: failed"]),
        "spawn": (0, []),
        "any": (0, ["T::test_c: no"]),
    }
    text = "\n".join(suites.table({"Process, Python 3.13.0": found}, ["3.13.0"]))
    assert "| Process | forkserver | **1 of 1 failed** |" in text
    assert "| Process | fork | green, 1 |" in text
    assert "- Process on 3.13.0: `T::test_c`" in text
