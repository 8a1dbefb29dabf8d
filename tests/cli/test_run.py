"""``poolwarden run``: the program sees what it would see under plain ``python``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.activation.probes import PROGRAM, ROOT

PROGRAMS = {
    "facts": "import sys; print(sys.argv, sys.path[0], __name__, __file__, __package__)",
    "spec": "print(getattr(__spec__, 'name', None))",
    "main": "import sys; print(sys.modules['__main__'].__dict__ is globals())",
    "stdin": "import sys; print(sys.stdin.read())",
    "raises": "def f():\n    1 / 0\nf()",
    "chained": "try:\n    1 / 0\nexcept Exception as error:\n    raise ValueError from error",
    "exits": "import sys; sys.exit(7)",
    "exits_with_text": "import sys; sys.exit('enough')",
    "is_wrong": "x = = 1",
    "interrupts": "raise KeyboardInterrupt",
    "leaves": "import atexit; atexit.register(print, 'last'); print('first')",
}


def python(folder: Path, *arguments: str, stdin: str = "a line\n", **more: str) -> Any:
    """Run an interpreter in `folder` that finds poolwarden by `PYTHONPATH`, and no start-up file."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("POOLWARDEN")}
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT / "src"), **more},
        capture_output=True,
        text=True,
        timeout=60,
    )


def both(folder: Path, *arguments: str) -> tuple[Any, Any]:
    """Return how a program ends under plain ``python``, and under ``run``."""
    return tuple(
        (ran.returncode, ran.stdout, ran.stderr)
        for ran in (python(folder, *arguments), python(folder, "-m", "poolwarden", "run", *arguments))
    )  # type: ignore[return-value]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("way", ["script", "module"])
def test_it_is_as_under_python(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / f"{name}.py").write_text(PROGRAMS[name] + "\n")
    program = [f"sub/{name}.py"] if way == "script" else ["-m", f"sub.{name}"]

    bare, guarded = both(tmp_path, *program, "one", "--timeout", "-m", "--", "two")

    if name == "raises":
        assert "ZeroDivisionError" in bare[2]
    assert guarded == bare


@pytest.mark.parametrize("program", [["nothing.py"], ["-m", "nothing"], ["-m", "json"]])
def test_what_cannot_be_run_is_refused_as_python_does(tmp_path: Path, program: list[str]) -> None:
    bare, guarded = both(tmp_path, *program)

    assert bare[0] != 0
    assert guarded == bare


def test_folders_and_archives_are_programs(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text("import sys; print(sys.argv, sys.path[0])")
    with zipfile.ZipFile(tmp_path / "archive.pyz", "w") as archive:
        archive.write(tmp_path / "folder" / "__main__.py", "__main__.py")
    for name in ("folder", "archive.pyz"):
        bare, guarded = both(tmp_path, name, "one")
        assert bare[0] == 0
        assert guarded == bare


@pytest.mark.parametrize("what", ["main", "fork", "spawn", "forkserver", "nested", "subprocess"])
def test_pools_are_guarded_where_no_start_up_file_is_read(tmp_path: Path, what: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)

    assert python(tmp_path, "-m", "poolwarden", "run", "program.py", what).stdout.split() == ["yes"]
    assert python(tmp_path, "program.py", what).stdout.split() == ["no"]


def test_the_users_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.customized = True")
    (tmp_path / "inner.py").write_text("import sys; print(customized, sys.modules['sitecustomize'].__file__)")
    (tmp_path / "outer.py").write_text("import subprocess, sys; subprocess.run([sys.executable, 'inner.py'])")
    path = os.pathsep.join((str(ROOT / "src"), str(tmp_path)))

    ran = python(tmp_path, "-m", "poolwarden", "run", "outer.py", PYTHONPATH=path)

    assert ran.stdout.split() == ["True", str(tmp_path / "sitecustomize.py")], ran.stderr


LOSES = """\
import multiprocessing, os, poolwarden
if __name__ == "__main__":
    pool = multiprocessing.get_context("fork").Pool(1)
    print(pool._poolwarden.guard.policy.timeout, pool._poolwarden.guard.policy.retries)
    try:
        pool.apply(os._exit, (3,))
    except poolwarden.WorkerLostError:
        print("lost")
    pool.close(); pool.join()
"""


def test_options_and_report(tmp_path: Path) -> None:
    (tmp_path / "loses.py").write_text(LOSES)
    options = ("--timeout", "30", "--retries", "1", "--report", "report.json")

    ran = python(tmp_path, "-m", "poolwarden", "run", *options, "loses.py")

    assert ran.stdout.split() == ["30.0", "1", "lost"], ran.stderr
    kinds = [event["kind"] for event in json.loads((tmp_path / "report.json").read_text())["events"]]
    assert kinds.count("task_retried") == kinds.count("task_lost") == 1


@pytest.mark.parametrize("before", ["1", "off", "timeout=no", "timeout=9,grace=2"])
def test_its_options_beat_the_variable(tmp_path: Path, before: str) -> None:
    """Also where a start-up file has read the variable already, which decides as the interpreter starts."""
    (tmp_path / "loses.py").write_text(
        LOSES.replace(".retries)", ".retries, pool._poolwarden.guard.policy.grace)")
    )
    start = "import poolwarden_startup as it, sys; it.start(); sys.argv[0] = 'poolwarden'\n"
    main = "from poolwarden.__main__ import main; sys.exit(main())"

    ran = python(tmp_path, "-c", start + main, "run", "--timeout", "5", "loses.py", POOLWARDEN=before)

    grace = "2.0" if "grace" in before else "0.0"
    assert ran.stdout.split() == ["5.0", "0", grace, "lost"], ran.stderr


def test_a_report_is_written_though_nothing_happened(tmp_path: Path) -> None:
    (tmp_path / "nothing.py").write_text("print('nothing')")

    assert python(tmp_path, "-m", "poolwarden", "run", "--report", "r.json", "nothing.py").returncode == 0
    assert json.loads((tmp_path / "r.json").read_text())["events"] == []


def test_the_variable_asks_for_a_report_too(tmp_path: Path) -> None:
    guarding = LOSES.replace(".Pool(1)", ".Pool(1); poolwarden.guard(pool)")
    (tmp_path / "loses.py").write_text(guarding)

    ran = python(tmp_path, "loses.py", POOLWARDEN_REPORT="r.json")
    assert "lost" in ran.stdout, ran.stderr
    assert json.loads((tmp_path / "r.json").read_text())["counts"]["task_lost"] == 1

    ran = python(tmp_path, "loses.py", POOLWARDEN_REPORT="r.txt")
    assert "lost" in ran.stdout
    assert "must end in .json or .html" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a script, or -m and a module, is missing"),
        (["--timeout", "soon", "x.py"], "the options are timeout, grace, retries, losses, startup_timeout"),
        (["--losses", "ignore", "x.py"], "'raise' or 'return'"),
        (["--report", "x.txt", "x.py"], ".json or .html"),
    ],
)
def test_a_wrong_call_is_told_what_is_right(tmp_path: Path, arguments: list[str], said: str) -> None:
    ran = python(tmp_path, "-m", "poolwarden", "run", *arguments)

    assert ran.returncode == 2
    assert said in ran.stderr
