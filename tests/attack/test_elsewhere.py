"""Workers and parents that end up where no file can be made, opened or found.

Siblings of one fault: what a guard needs later has to be in its hand from a worker's birth on. *Who*: each
worker, in its initializer; the parent, before or behind the making of its pool. *What*: another user,
another root directory, both, other namespaces; limits of file sizes, of descriptors, of addresses; a umask
that takes every right away; a folder for temporary files that was swept. *When*: before the guard, or
behind it, which makes a difference to what the workers were born with.

Then payloads of all sizes go both ways, twice, and a task that kills its worker and one that never ends end
as ever. `tests.attack.elsewhere` is the program; bare pools do all of this but for the last two.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from tests.contract.binding import PoolBinding
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

BOUND = 60.0

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="takes root, on Linux"),
    pytest.mark.bound(BOUND),
]

CASES = (
    ("user", "worker"), ("root", "worker"), ("root_and_user", "worker"), ("file_size", "worker"),
    ("descriptors", "worker"), ("addresses", "worker"), ("namespaces", "worker"),
    ("user", "parent"), ("file_size", "parent"), ("descriptors", "parent"), ("swept", "parent"),
    ("file_size", "start"), ("addresses", "start"), ("masked", "start"),
)  # fmt: skip


class Elsewhere:
    binding: ClassVar[type[PoolBinding]]

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("age", ["born", "older"])
    @pytest.mark.parametrize(("change", "who"), CASES)
    def test_all_goes_on_as_before(
        self, start_method: str, change: str, who: str, age: str, tmp_path: Path
    ) -> None:
        where = f"{self.binding.__module__}:{self.binding.__qualname__}"
        if (change, who) == ("user", "parent") and start_method != "fork":
            pytest.skip("another user may not be able to start this Python")
        program = [sys.executable, "-B", "-m", "tests.attack.elsewhere"]
        command = [*program, change, who, age, where, start_method]
        done = subprocess.run(command, timeout=BOUND, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stderr[-3000:]


class TestPool(Elsewhere):
    binding = BindPool
    variations = 8


class TestExecutor(Elsewhere):
    binding = BindExecutor
    variations = 6


class TestLoky(Elsewhere):
    binding = BindLoky
    variations = 4

    @pytest.fixture(autouse=True)
    def without_psutil(self, request: pytest.FixtureRequest) -> None:
        if "root" in request.node.callspec.params["change"] and importlib.util.find_spec("psutil"):
            pytest.skip("with psutil a bare loky worker looks for itself in /proc, and ends")
