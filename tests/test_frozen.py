"""A freezer finds every module that a frozen program can need.

PyInstaller, cx_Freeze and Nuitka read a program's code and take along the
modules that its import statements name; ``compat/frozen.py`` does it for real.
Siblings of one kind: the adapter of each host, what the public names stand
for, joblib's backend, the report, what only a worker imports; and the other
way round, a package of somebody else that is taken along though the program
has no use for it. The start-up file, which a frozen program does not have.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import poolwarden
from poolwarden.hosts.loading import LOADERS
from poolwarden.hosts.registry import HOSTS

ROOT = Path(poolwarden.__file__).parent
#: Never part of a frozen program: they belong to a Python that runs scripts.
APART = (
    "__main__",
    "cli",
    "system.capabilities",
    "testing",
    "activation.pytest_",
)
#: Where a computed name is of a module that its user has imported, or one that is there anyhow.
COMPUTED = {
    "errors",
    "worker.member",
    "worker.orphan",
    "worker.picklers",
    "hosts.pool.host",
    "hosts.executor.loky",
    "worker.memory",
    "core.preload",
}


def modules() -> dict[str, ast.Module]:
    """Return the package's modules by dotted name; "" is the package itself."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith(APART):
            found[name] = ast.parse(path.read_text())
    return found


def named(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield what the import statements of a module may name, in absolute terms."""
    package = ["poolwarden", *name.split(".")]
    is_package = (ROOT / name.replace(".", "/")).is_dir()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            levels = node.level - is_package
            start = [part for part in package if part][: len(package) - levels] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            parts = base.split(".")
            # With a module come the packages that it is in.
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_every_module_is_named_by_a_statement_in_one_that_is() -> None:
    trees = modules()
    reached, left = {""}, [""]
    while left:
        name = left.pop()
        for target in named(name, trees[name]):
            inner = target.removeprefix("poolwarden.")
            if target.startswith("poolwarden.") and inner in trees and inner not in reached:
                reached.add(inner)
                left.append(inner)

    assert set(trees) - reached == set()


def test_no_name_of_our_own_is_computed() -> None:
    computed = set()
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
                (argument,) = node.args
                if not isinstance(argument, ast.Constant):
                    computed.add(name)
                else:
                    assert not str(argument.value).startswith(("poolwarden", ".")), name
    assert computed <= COMPUTED


def test_nobody_elses_package_is_named_but_wrapt() -> None:
    known = {*sys.stdlib_module_names, "poolwarden", "wrapt"}
    named_here = {
        target.partition(".")[0] for name, tree in modules().items() for target in named(name, tree)
    }

    assert named_here <= known


def test_each_host_has_its_own_way_to_its_adapter() -> None:
    assert list(LOADERS) == [host.module for host in HOSTS]
    assert len(set(LOADERS.values())) == len(HOSTS)


def test_a_frozen_program_is_guarded_by_the_variable_once_it_imports_poolwarden() -> None:
    program = (
        "import sys; sys.frozen = True\n"
        "import multiprocessing, poolwarden\n"
        "with multiprocessing.Pool(1) as pool:\n"
        "    print(hasattr(pool, '_poolwarden'))\n"
    )
    for value, guarded in (("1", "True"), ("0", "False")):
        # Without start-up files.
        ran = subprocess.run(
            [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"],
            env={"POOLWARDEN": value},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.stdout.strip() == guarded, ran.stderr
