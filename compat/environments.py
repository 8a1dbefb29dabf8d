"""Virtual environments for recipes, named by what is in them and kept in the user's cache.

Each holds a recipe's requirements, poolwarden as it would be installed, and
the witness. The bare and the guarded run share it: the environment variable is
all the difference.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
WRAPT = "wrapt==2.5.2"
#: Seconds for pip to install or build something.
PIP_BOUND = 900.0

_IDENTIFY = "import sys, sysconfig; print('%d.%d.%d' % sys.version_info[:3], sysconfig.get_path('stdlib'))"


def cache() -> Path:
    """Return the folder where everything is kept; it can be removed at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "poolwarden-compat"


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes
    ----------
    python : Path
        Its interpreter.
    version : str
        Such as ``3.13.0``.
    stdlib : Path
        The standard library's folder.
    """

    python: Path
    version: str
    stdlib: Path

    def has(self, module: str) -> bool:
        """Return whether a module can be imported there."""
        ran = subprocess.run([self.python, "-c", f"import {module}"], capture_output=True, timeout=60)
        return ran.returncode == 0


def clean_env() -> dict[str, str]:
    """Return this process's variables without what would leak into an environment."""
    dropped = ("PYTHON", "VIRTUAL_ENV", "POOLWARDEN", "PYTEST_", "COVERAGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def identify(python: str) -> tuple[str, Path]:
    """Return an interpreter's version and the folder of its standard library."""
    ran = subprocess.run(
        [python, "-c", _IDENTIFY], capture_output=True, text=True, check=True, timeout=60, env=clean_env()
    )
    version, _, stdlib = ran.stdout.strip().partition(" ")
    return version, Path(stdlib)


def environment(python: str, requires: list[str]) -> Environment:
    """Return an environment with `requires` and this poolwarden; made if it is not there.

    Without a version of wrapt among `requires`, it is `WRAPT`.

    Raises
    ------
    subprocess.CalledProcessError
        pip could not install something; its output is on stderr.
    """
    version, stdlib = identify(python)
    wanted = [*requires, *([] if any(name.startswith("wrapt==") for name in requires) else [WRAPT])]
    digest = hashlib.sha256("\n".join([os.path.realpath(python), version, *wanted]).encode()).hexdigest()
    folder = cache() / "environments" / f"{version}-{digest[:16]}"
    inside = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([python, "-m", "venv", str(folder)])
        _run([str(inside), "-m", "pip", "install", "--quiet", *wanted])
        (folder / "complete").touch()
    _install_poolwarden(folder, inside)
    return Environment(inside, version, stdlib)


def source(python: Path, requirement: str) -> Path:
    """Return the unpacked source distribution of a pinned requirement."""
    folder = cache() / "sources" / requirement.replace("==", "-")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            # Its metadata is built to find out the name, for which some need what is installed.
            options = ["--no-deps", "--no-binary", ":all:", "--quiet", "--dest", scratch]
            _run([str(python), "-m", "pip", "download", *options, requirement])
            (archive,) = Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as file:
                file.extractall(scratch, filter="data")
            (unpacked,) = (path for path in Path(scratch).iterdir() if path.is_dir())
            unpacked.rename(folder)
    return folder


def _install_poolwarden(folder: Path, python: Path) -> None:
    """Install poolwarden and the witness into an environment, unless they are the same there."""
    wheel = _wheel(python)
    mark = folder / "poolwarden"
    witness = Path(__file__).parent / "witness.py"
    content = f"{wheel.parent.name}\n{witness.read_text()}"
    if mark.exists() and mark.read_text() == content:
        return
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)])
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copy(witness, packages / "compat_witness.py")
    (packages / "compat_witness.pth").write_text("import compat_witness\n")
    mark.write_text(content)


def _wheel(python: Path) -> Path:
    """Return the wheel of the repository as it is now."""
    digest = hashlib.sha256()
    for path in [REPOSITORY / "pyproject.toml", *sorted(REPOSITORY.glob("src/**/*"))]:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes())
    folder = cache() / "wheels" / digest.hexdigest()[:16]
    if not list(folder.glob("*.whl")):
        options = ["--quiet", "--no-deps", "--wheel-dir", str(folder)]
        _run([str(python), "-m", "pip", "wheel", *options, str(REPOSITORY)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def _run(command: list[str]) -> None:
    env = {**clean_env(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run(command, check=True, timeout=PIP_BOUND, stdout=subprocess.DEVNULL, env=env)
