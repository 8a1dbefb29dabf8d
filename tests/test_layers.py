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

#: What a part of the package may import: itself, and these parts.
BELOW: dict[str, set[str]] = {
    # On demand, but for what waits for joblib.
    "__init__": {"on_import", "activation", "hosts", "errors", "policy", "records"},
    "on_import": set(),
    "plaintext": set(),
    "options": {"plaintext"},
    "records": set(),
    "errors": {"records", "plaintext"},
    "limited": set(),
    "clock": set(),
    "testing": set(),
    "policy": {"errors", "records", "limited", "options"},
    "worker": {"errors", "records", "limited", "clock"},
    "system": {"worker", "errors", "plaintext", "clock"},
}
BELOW["core"] = BELOW["system"] | {"system", "policy", "records", "limited"}
BELOW["report"] = BELOW["core"] | {"core", "__init__"}
BELOW["hosts"] = BELOW["core"] | {"core"}
BELOW["activation"] = BELOW["hosts"] | {"hosts", "report", "on_import", "options"}
BELOW["cli"] = BELOW["activation"] | {"activation", "testing"}
BELOW["__main__"] = BELOW["cli"] | {"cli"}

#: Hosts are imported by their own room alone.
HOST_FREE = ("worker", "system", "core", "policy", "records", "limited", "clock", "report")
HOSTS = {"multiprocessing.pool", "concurrent.futures.process", "loky", "joblib", "multiprocess"}

#: What families of hosts share.
SHARED = ("base", "batch", "registry")

#: A family that puts its tasks into the pools of others.
ABOVE = {"joblib": ("executor", "pool")}

#: Modules that cost a worker's start-up milliseconds.
COSTLY = {"dataclasses", "inspect", "wrapt", "concurrent.futures", "typing", "logging", "asyncio"}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    """Return a module's dotted name below the package: ``core.guard``, ``core``, ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def part_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of each import of a file, but for those under TYPE_CHECKING."""
    package = ["poolwarden", *path.relative_to(ROOT).parts[:-1]]
    for node in _executed(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from .core import guard` imports the module core.guard, if there is one
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below `node` that can be executed."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _executed(other)
            continue
        yield child
        yield from _executed(child)


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    module = module_name(path)
    part = part_of(module)
    assert part in BELOW, f"{part} is new: say in BELOW what it may import"
    for line, name in imports(path):
        if not name.startswith("poolwarden."):
            continue
        target = part_of(name.removeprefix("poolwarden."))
        if target not in BELOW:  # a name of the package itself: poolwarden.guard, poolwarden.__version__
            target = "__init__"
        facade = target == "__init__" and part in ("cli", "__main__")  # they speak as any user does
        assert facade or target == part or target in BELOW[part], (
            f"{module}, line {line}: {part} must not import {name}"
        )


@pytest.mark.parametrize(
    "path",
    [path for path in sources() if module_name(path).startswith("hosts.") and path.stem != "loading"],
    ids=module_name,
)
def test_families_of_hosts_do_not_import_each_other(path: Path) -> None:
    family = module_name(path).split(".")[1]
    for line, name in imports(path):
        if name.startswith("poolwarden.hosts."):
            other = name.split(".")[2]
            allowed = other in (family, *SHARED, *ABOVE.get(family, ()))
            assert allowed, f"line {line} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in sources() if part_of(module_name(path)) in HOST_FREE], ids=module_name
)
def test_only_hosts_import_a_host(path: Path) -> None:
    for line, name in imports(path):
        host = next((host for host in HOSTS if f"{name}.".startswith(f"{host}.")), None)
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
