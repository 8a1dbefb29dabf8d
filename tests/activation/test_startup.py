"""`POOLWARDEN`: where it reaches, what it costs a program without pools, and how it is switched off."""

from __future__ import annotations

import inspect
import multiprocessing.pool
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.activation import probes

SOURCES = probes.ROOT / "src"


@pytest.fixture(scope="session", params=list(probes.KINDS))
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the Python of an environment with poolwarden installed, and a folder of programs."""
    folder = tmp_path_factory.mktemp("programs")
    probes.write_programs(folder)
    try:
        python = probes.make_environment(sys.executable, folder / "venv", request.param)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no environment can be made here: {error.stderr.decode()[-200:]}")
    return python, folder


@pytest.mark.bound(400)
@pytest.mark.parametrize("probe", probes.PROBES.values(), ids=probes.PROBES)
def test_it_reaches_every_kind_of_program(installed: Any, probe: Any) -> None:
    assert probe(*installed)


@pytest.mark.bound(400)
def test_off_is_off_and_a_program_without_pools_pays_nothing(installed: Any) -> None:
    python, folder = installed
    for value in ("0", "off", ""):
        assert probes.output([python, "program.py", "main"], folder, value=value).split() == ["no"]
    code = "import sys, concurrent.futures; print(*(n for n in sys.modules if 'poolw' in n or n == 'wrapt'))"
    # A .start file names a function, so Python 3.15 imports its module in any case.
    assert set(probes.output([python, "-c", code], folder, value="").split()) <= {"poolwarden_startup"}
    found = probes.output([python, "-c", code], folder).split()
    assert "poolwarden.activation.startup" in found
    assert not [name for name in found if name == "wrapt" or name.startswith("poolwarden.core")]


def run(code: str, value: str = "1", path: tuple[Path, ...] = (SOURCES,), **more: str) -> Any:
    """Run `code` with the start-up files of the first folder in `path` read; no installation is needed."""
    # -S -E: nothing but what is given here; addsitedir is what site does with a folder.
    start = f"import site, sys; sys.path[:0] = {list(map(str, path))!r}; site.addsitedir({str(path[0])!r})\n"
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {packages!r}\n{start}{code}"],
        env={"POOLWARDEN": value, "PATH": "/usr/bin:/bin", **more},
        capture_output=True,
        text=True,
        timeout=60,
    )


MAKES_A_POOL = (
    "import multiprocessing\n"
    "pool = multiprocessing.get_context('fork').Pool(1)\n"
    "print(hasattr(pool, '_poolwarden') and pool._poolwarden.guard.policy.timeout)\n"
    "pool.terminate(); pool.join()\n"
)


@pytest.mark.parametrize(
    ("value", "timeout"), [("1", "None"), ("on", "None"), ("timeout=7,retries=2", "7.0"), ("off", "False")]
)
def test_its_options_reach_the_pool(value: str, timeout: str) -> None:
    ran = run(MAKES_A_POOL, value)
    assert (ran.stdout.strip(), ran.stderr) == (timeout, "")


def test_it_reaches_the_copy_of_multiprocessing() -> None:
    pytest.importorskip("multiprocess")
    ran = run(MAKES_A_POOL.replace("multiprocessing", "multiprocess"), "timeout=7")
    assert (ran.stdout.strip(), ran.stderr) == ("7.0", "")


def test_a_bad_value_is_told_once_in_a_tree_and_means_off() -> None:
    ran = run("import os\n" + MAKES_A_POOL + "print(os.environ['POOLWARDEN_COMPLAINED'])", "timeout=no")
    assert ran.stdout.split() == ["False", "timeout=no"]
    assert ran.stderr.count("poolwarden:") == 1
    assert "Valid are 1 or on, 0 or off" in ran.stderr

    below = run(MAKES_A_POOL, "timeout=no", POOLWARDEN_COMPLAINED="timeout=no")
    assert (below.stdout.strip(), below.stderr) == ("False", "")


def test_a_call_of_guard_beats_it() -> None:
    ran = run(
        "import multiprocessing, poolwarden\n"
        "pool = poolwarden.guard(multiprocessing.get_context('fork').Pool(1), timeout=5)\n"
        "print(pool._poolwarden.guard.policy.timeout)\n"
        "pool.terminate(); pool.join()\n",
        "timeout=30",
    )
    assert (ran.stdout.strip(), ran.stderr) == ("5", "")


def test_uninstall_takes_it_back_before_and_after_the_first_pool() -> None:
    ran = run(
        "import multiprocessing.pool, poolwarden\n"
        "cls = multiprocessing.pool.Pool\n"
        "replaced = cls.__init__\n"
        "bare = replaced.__wrapped__\n"
        "poolwarden.uninstall()\n"
        "print(cls.__init__ is bare is not replaced)\n"
        "poolwarden.install(); poolwarden.uninstall()\n"
        "print(vars(cls)['__init__'] is bare)\n"
    )
    assert (ran.stdout.split(), ran.stderr) == (["True", "True"], "")


def test_a_call_of_install_beats_it() -> None:
    ran = run("import poolwarden; poolwarden.install(timeout=3)\n" + MAKES_A_POOL, "timeout=30")
    assert (ran.stdout.strip(), ran.stderr) == ("3", "")


def test_all_of_the_first_pools_are_guarded_when_threads_make_them() -> None:
    ran = run(
        "import multiprocessing, threading\n"
        "made, gate = [], threading.Barrier(4)\n"
        "def make():\n"
        "    gate.wait(30)\n"
        "    made.append(multiprocessing.get_context('spawn').Pool(1))\n"
        "import multiprocessing.pool\n"
        "threads = [threading.Thread(target=make) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join(40)\n"
        "print(*(hasattr(pool, '_poolwarden') for pool in made))\n"
        "for pool in made: pool.terminate(); pool.join()\n"
    )
    assert (ran.stdout.split(), ran.stderr) == (["True"] * 4, "")


def test_a_patch_of_another_tool_stays() -> None:
    ran = run(
        "import multiprocessing.pool\n"
        "cls, seen = multiprocessing.pool.Pool, []\n"
        "inner = cls.__init__\n"
        "def theirs(self, *args, **kwargs):\n"
        "    seen.append(1)\n"
        "    inner(self, *args, **kwargs)\n"
        "cls.__init__ = theirs\n"
        "def make():\n"
        "    pool = multiprocessing.get_context('fork').Pool(1)\n"
        "    pool.terminate(); pool.join()\n"
        "    return pool\n"
        "pools = [make(), make()]\n"
        "print(len(seen), *(hasattr(pool, '_poolwarden') for pool in pools))\n"
        "import poolwarden; poolwarden.uninstall()\n"
        "print(vars(cls)['__init__'] is theirs)\n"
    )
    assert (ran.stdout.split(), ran.stderr) == (["2", "True", "True", "True"], "")


def test_a_pool_of_threads_pays_nothing() -> None:
    ran = run(
        "from multiprocessing.pool import ThreadPool\n"
        "with ThreadPool(1) as pool: print(pool.map(abs, [-1]))\n"
        "print(*(name for name in sys.modules if name == 'wrapt' or name.startswith('poolwarden.core')))\n"
    )
    assert (ran.stdout.split(), ran.stderr) == (["[1]"], "")


def test_joblib_without_processes_pays_nothing_and_the_first_with_some_is_guarded() -> None:
    pytest.importorskip("joblib")
    ran = run(
        "from joblib import Parallel, delayed\n"
        "def loaded():\n"
        "    return [name for name in sys.modules if name == 'wrapt' or name.startswith('poolwarden.core')]\n"
        "print(Parallel(n_jobs=1)([delayed(abs)(-1)]), Parallel()([delayed(abs)(-2)]), loaded())\n"
        "from poolwarden import WorkerLostError\n"
        "from poolwarden.testing import die\n"
        "try: Parallel(2)([delayed(die(3))()])\n"
        "except WorkerLostError as error: print(error.task.function)\n"
    )
    assert ran.stdout == "[1] [2] []\npoolwarden.testing.die(3)\n"


def test_a_configuration_of_joblib_decides_whether_there_are_processes() -> None:
    pytest.importorskip("joblib")
    ran = run(
        "from joblib import Parallel, delayed, parallel_config\n"
        "from poolwarden import WorkerLostError\n"
        "from poolwarden.testing import die\n"
        "try:\n"
        "    with parallel_config(n_jobs=2): Parallel()([delayed(die(3))()])\n"
        "except WorkerLostError as error: print(error.task.function)\n"
    )
    assert ran.stdout == "poolwarden.testing.die(3)\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_bad_value_stops_nobody_whose_stderr_is_full() -> None:
    ran = run(
        "import os, poolwarden_startup\n"
        "os.environ['POOLWARDEN'] = 'timeout=no'\n"
        "with open('/dev/full', 'w', buffering=1) as sys.stderr:\n"
        "    poolwarden_startup.start()\n"
        "    print('fine')\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())\n",
        value="",
    )
    assert (ran.stdout.strip(), ran.returncode) == ("fine", 0), ran.stderr


def test_the_constructor_looks_as_before() -> None:
    ran = run(
        "import inspect, multiprocessing.pool\n"
        "init = multiprocessing.pool.Pool.__init__\n"
        "print(init.__qualname__, inspect.signature(init))\n"
    )
    bare = multiprocessing.pool.Pool.__init__
    assert ran.stdout.strip() == f"{bare.__qualname__} {inspect.signature(bare)}"


@pytest.mark.parametrize("left", [(), ("poolwarden_startup.py",)], ids=["removed", "broken"])
def test_a_removed_or_broken_installation_is_silent(tmp_path: Path, left: tuple[str, ...]) -> None:
    # Of a .start file whose module is gone, Python 3.15 itself complains.
    start = [] if sys.version_info >= (3, 15) and not left else ["poolwarden_startup.start"]
    for name in ("poolwarden_startup.pth", *start, *left):
        (tmp_path / name).write_text((SOURCES / name).read_text())
    ran = run("print('fine')", path=(tmp_path,))
    assert (ran.stdout.strip(), ran.stderr) == ("fine", "")


def test_both_start_up_files_name_the_same() -> None:
    assert (SOURCES / "poolwarden_startup.start").read_text().split() == ["poolwarden_startup:start"]
    (line,) = (SOURCES / "poolwarden_startup.pth").read_text().splitlines()
    assert line.startswith('import os; os.environ.get("POOLWARDEN") and ')
    assert "exec" not in line
