"""Imports point one way, and a worker pays only for what it needs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import poolwarden

ROOT = Path(poolwarden.__file__).parent

#: The floors of the house, from the top. A module may import its own room and the floors below it; rooms of
#: one floor do not know each other. A room is named by the folder or the module that it is.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("__init__",),  # the public names, on demand
    ("activation",),
    ("hosts.loading",),
    ("hosts.joblib",),  # puts its tasks into the pools of others
    ("hosts.executor", "hosts.pool", "hosts.process", "report"),
    ("hosts",),  # what families of hosts share
    ("core",),
    ("system",),
    ("worker",),
    ("policy",),
    ("errors", "options", "testing"),
    ("records", "plaintext", "limited", "clock", "on_import", "version"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

#: Libraries with pools are imported by the rooms of hosts alone.
LIBRARIES = {"multiprocessing.pool", "concurrent.futures.process", "loky", "joblib", "multiprocess"}
#: Rooms that name one: to show it, to choose it, or (`errors`) to inherit from what it raises.
NAME_LIBRARIES = ("__main__", "cli", "__init__", "activation", "errors")

#: Modules that cost a worker's start-up milliseconds.
COSTLY = {"dataclasses", "inspect", "wrapt", "concurrent.futures", "typing", "logging", "asyncio"}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    """Return a module's dotted name below the package: ``core.guard``, ``core``, ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sources()}


def room_of(module: str) -> str:
    """Return the room of a module: the longest name in `FLOORS` that it begins with."""
    while module and module not in FLOOR_OF:
        module = module.rpartition(".")[0]
    return module


def part_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of each import, those under TYPE_CHECKING and in functions too."""
    package = ["poolwarden", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from .core import guard` imports the module core.guard, if there is one
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name in it of each import of our own; the name is empty for a module."""
    for line, target in imports(path):
        if target.partition(".")[0] != "poolwarden":
            continue
        name = target.removeprefix("poolwarden").lstrip(".")
        if name in MODULES:
            yield line, name, ""
        else:
            module, _, attribute = name.rpartition(".")
            yield line, module or "__init__", attribute


each_module = pytest.mark.parametrize("module", MODULES)


def test_each_module_is_in_a_room() -> None:
    assert [module for module in MODULES if not room_of(module)] == []
    assert [room for room in FLOOR_OF if room not in MODULES] == []


@each_module
def test_imports_point_down(module: str) -> None:
    room = room_of(module)
    for line, target, name in own_imports(MODULES[module]):
        below = room_of(target)
        assert below == room or FLOOR_OF[room] < FLOOR_OF[below], (
            f"{module}, line {line}: {room} must not import {target} {name}"
        )


@each_module
def test_private_names_stay_in_their_room(module: str) -> None:
    """Neither imported nor reached through an imported module."""
    foreign: dict[str, str] = {}
    tree = ast.parse(MODULES[module].read_text())
    for line, target, name in own_imports(MODULES[module]):
        if room_of(target) != room_of(module):
            assert not name.startswith("_") or name.startswith("__"), f"line {line} imports {target}.{name}"
            foreign[target.rpartition(".")[2]] = target
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in foreign:
            assert not node.attr.startswith("_") or node.attr.startswith("__"), (
                f"line {node.lineno} reaches {foreign[node.value.id]}.{node.attr}"
            )


def circles() -> list[set[str]]:
    """Return the sets of modules that need each other, for annotations or inside functions too."""
    needs = {
        module: {target for _, target, _ in own_imports(path)} - {module} for module, path in MODULES.items()
    }
    reached = {module: set(targets) for module, targets in needs.items()}
    for middle in needs:
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    found: list[set[str]] = []
    for module in needs:
        circle = {other for other in reached[module] if module in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_no_modules_need_each_other() -> None:
    assert [sorted(circle) for circle in circles()] == []


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if part_of(name) != "hosts" and room_of(name) not in NAME_LIBRARIES],
)
def test_only_hosts_import_a_host(module: str) -> None:
    for line, name in imports(MODULES[module]):
        host = next((host for host in LIBRARIES if f"{name}.".startswith(f"{host}.")), None)
        assert host is None, f"line {line} imports {name}"


def imported_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has after `code`, without what it starts with."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{code}\n"
        "found = sorted(set(sys.modules) - before); import json; print(json.dumps(found))"
    )
    # -S: an installed package's start-up files are none of this test's business.
    path = [str(ROOT.parent), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    ran = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {path!r}\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout))


def test_importing_the_package_imports_next_to_nothing() -> None:
    assert imported_by("import poolwarden") - {"__future__"} == {"poolwarden", "poolwarden.on_import"}


def test_importing_guard_imports_nothing_that_only_a_parent_needs() -> None:
    """Each spawned worker imports the program's main module, and that imports `guard`."""
    found = imported_by("from poolwarden import guard")
    rooms = {part_of(name.removeprefix("poolwarden.")) for name in found if name.startswith("poolwarden.")}
    assert not rooms & {"core", "hosts", "report", "cli"}
    assert "wrapt" not in found


def test_importing_the_faults_is_cheap() -> None:
    found = imported_by("import poolwarden.testing")
    assert {name for name in found if name.startswith("poolwarden")} == {
        "poolwarden",
        "poolwarden.on_import",
        "poolwarden.testing",
    }
    assert not found & (COSTLY | {"multiprocessing", "ctypes"})


@pytest.mark.parametrize(
    "module",
    [module_name(path) for path in sources() if part_of(module_name(path)) in ("worker", "limited", "clock")],
)
def test_what_a_worker_imports_is_cheap(module: str) -> None:
    found = imported_by(f"import poolwarden.{module}")
    assert not found & COSTLY
    parts = {part_of(name.removeprefix("poolwarden.")) for name in found if name.startswith("poolwarden.")}
    assert parts <= {"worker", "limited", "clock", "on_import"}


def test_a_real_worker_has_imported_nothing_costly() -> None:
    """What a spawned worker of a guarded pool has loaded, beyond one of a bare pool."""
    program = (
        "import multiprocessing, sys, json\n"
        "from poolwarden import guard\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with context.Pool(1) as pool:\n"
        "        bare = set(pool.apply(eval, ('sorted(__import__(\"sys\").modules)',)))\n"
        "    with guard(context.Pool(1), timeout=30, grace=1, retries=1) as pool:\n"
        "        found = set(pool.apply(eval, ('sorted(__import__(\"sys\").modules)',)))\n"
        "    print(json.dumps(sorted(found - bare)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT.parent,
    )
    assert ran.returncode == 0, ran.stderr
    found = set(json.loads(ran.stdout))
    assert not found & COSTLY
    assert "poolwarden.worker.frames" not in found  # only chunks whose items are kept take it
    parts = {part_of(name.removeprefix("poolwarden.")) for name in found if name.startswith("poolwarden.")}
    assert parts <= {"worker", "limited", "clock", "on_import"}
