"""What type checkers say of programs: nothing of right ones, each mistake of wrong ones.

Each line of `WRONG` that ends in ``# wrong`` must be found, and no other. A checker that is not installed is
skipped; pyright also where it cannot get its own program (it comes from the net at the first use).
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import poolwarden

SOURCE = Path(poolwarden.__file__).parents[1]

RIGHT = """\
import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.pool import Pool

import poolwarden
from poolwarden import Event, Policy, cancel, guard, install, limits, unguard, uninstall


def length(text: str, times: int = 1) -> int:
    return len(text) * times


def told(event: Event) -> None:
    print(event.kind, event.exit and event.exit.signal)


def main() -> None:
    install(timeout=3, losses="return", on_event=told)
    uninstall()
    with guard(multiprocessing.Pool(2), timeout=30, grace=1, retries=1, losses=lambda error: None) as pool:
        numbers: list[int] = pool.map(limits(length, timeout=5), ["a", "b"])
        print(numbers, limits(length)("a", times=2) + 1)
        handle = pool.apply_async(limits(length, timeout=None, retries=2), ("a",))
        stopped: bool = cancel(handle)
        same: Pool = unguard(pool)
        print(stopped, same)
    with guard(ProcessPoolExecutor(2), cancel_running=True) as executor:
        future = executor.submit(limits(length, grace=2), "a", times=3)
        print(cancel(future), future.result() + 1, future.exception())
    guard(multiprocessing.Process(target=length), timeout=3).start()
    guard(multiprocessing.get_context("spawn").Pool(1))
    policy = Policy(timeout=1.5, losses="raise").merged(retries=2)
    try:
        print(policy.timeout, poolwarden.EVENT_KINDS)
    except poolwarden.WorkerLostError as error:
        print(error.task and error.task.function, error.stack, error.may_have_run)


async def wait(executor: ProcessPoolExecutor) -> bool:
    return cancel(asyncio.get_running_loop().run_in_executor(executor, length, "a"))
"""

WRONG = """\
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import Pool, ThreadPool

from poolwarden import Policy, cancel, guard, install, limits


def length(text: str, times: int = 1) -> int:
    return len(text) * times


def seeded(pool: Pool, executor: ProcessPoolExecutor) -> None:
    guard(pool, tiemout=30)  # wrong
    guard(pool, timeout="30")  # wrong
    guard(pool, 30)  # wrong
    guard(pool, losses="retrun")  # wrong
    guard(pool, losses=lambda: None)  # wrong
    guard(pool, on_event=lambda: None)  # wrong
    guard(pool, retries=0.5)  # wrong
    guard(ThreadPool(2), timeout=30)  # wrong
    guard(ThreadPool(2)).map(length, ["a"])  # wrong
    guard(ThreadPoolExecutor(2))  # wrong
    guard([pool])  # wrong
    install(grace=None)  # wrong
    install(startup_timeuot=3)  # wrong
    Policy(losses="ignore")  # wrong
    limits(length, timeout="5")  # wrong
    limits(length, losses="return")  # wrong
    limits(length, timeout=5)(7)  # wrong
    limits(length, timeout=5)("a", tmies=2)  # wrong
    pool.map(limits(length, timeout=5), [1, 2])  # wrong
    executor.submit(limits(length), 7)  # wrong
    text: str = limits(length)("a")  # wrong
    cancel(length)  # wrong
    print(text)
"""


def lines_marked(text: str) -> set[int]:
    return {number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# wrong")}


def files(folder: Path) -> tuple[Path, Path]:
    right, wrong = folder / "right.py", folder / "wrong.py"
    right.write_text(RIGHT)
    wrong.write_text(WRONG)
    return right, wrong


def ran(folder: Path, *command: str) -> Any:
    # What is installed is found without it, and mypy refuses to look there on request.
    kept = dict(os.environ)
    if SOURCE.name != "site-packages":
        kept["MYPYPATH"] = str(SOURCE)
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=kept, capture_output=True, text=True, timeout=110
    )


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy(tmp_path: Path) -> None:
    right, wrong = files(tmp_path)
    done = ran(tmp_path, "mypy", "--strict", "--config-file=", "--cache-dir=cache", "--follow-imports=silent",
               right.name, wrong.name)  # fmt: skip
    found = re.findall(r"^(\w+)\.py:(\d+): error: ", done.stdout, re.M)
    assert [line for name, line in found if name == "right"] == [], done.stdout + done.stderr
    assert {int(line) for name, line in found if name == "wrong"} == lines_marked(WRONG), done.stdout


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright(tmp_path: Path) -> None:
    if ran(tmp_path, "pyright", "--version").returncode != 0:
        pytest.skip("pyright cannot get its program")
    right, wrong = files(tmp_path)
    settings = {"extraPaths": [str(SOURCE)], "typeCheckingMode": "standard", "include": ["*.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = ran(tmp_path, "pyright", "--outputjson", "--pythonpath", sys.executable)
    found = [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    ]
    assert [line for name, line in found if name == right.name] == [], done.stdout
    assert {line for name, line in found if name == wrong.name} == lines_marked(WRONG), done.stdout


@pytest.mark.parametrize("function", [poolwarden.guard, poolwarden.install], ids=lambda each: each.__name__)
def test_every_option_is_a_parameter(function: Any) -> None:
    """With its default and its type: who adds an option to `Policy` adds it there."""
    parameters = inspect.signature(function).parameters.values()
    named = {
        each.name: (each.default, each.annotation) for each in parameters if each.kind is each.KEYWORD_ONLY
    }
    assert named == {each.name: (each.default, each.type) for each in fields(poolwarden.Policy)}


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "poolwarden" / "py.typed").is_file()


def test_signature_of_limits_is_readable() -> None:
    assert "object at 0x" not in str(inspect.signature(poolwarden.limits))
