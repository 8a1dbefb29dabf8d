"""What ``poolwarden doctor`` looks at; returns plain values, raises nothing.

A check that fails says "could not be checked" in the place of its answer. No
value of the environment is shown but those of ``POOLWARDEN*``, and the home
directory is written as ``~``. Hosts that are installed are imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import signal
import site
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import poolwarden
from poolwarden.core.pool_memory import PoolMemory
from poolwarden.hosts.loading import load
from poolwarden.hosts.registry import HOSTS, Host
from poolwarden.policy import Policy
from poolwarden.system.capabilities import abilities, lacking
from poolwarden.system.free_memory import free_memory
from poolwarden.version import __version__

#: Seconds for an interpreter to start and end.
START_BOUND: Final = 20.0
SCHEMA: Final = 1

#: Put out by a new interpreter that has POOLWARDEN set.
_PROBE: Final = "import sys; print(any(name.startswith('poolwarden.') for name in sys.modules))"


def examine() -> dict[str, Any]:
    """Return what was found.

    Returns
    -------
    dict
        ``schema`` (1), ``ok``, ``versions``, ``hosts``, ``lacking`` (what this
        system has not, and no pool is guarded without), ``start methods``,
        ``abilities``, ``shared memory``, ``POOLWARDEN``. Of each host:
        ``kind``, ``installed``, ``version``, ``can_be_guarded``, ``found``
        (how many private names), ``missing`` (which ones and why), ``problem``.
    """
    hosts = [_host(host) for host in HOSTS]
    memory = _attempt(_memory)
    usable = isinstance(memory, dict)
    found = {
        "schema": SCHEMA,
        "ok": usable and not lacking() and all(host["can_be_guarded"] for host in hosts if host["installed"]),
        "versions": _all(
            {
                "poolwarden": lambda: f"{__version__} in {Path(poolwarden.__file__).parent}",
                "Python": _python,
                "platform": platform.platform,
                "libc": lambda: " ".join(platform.libc_ver()).strip() or "not known",
                "CPUs": os.cpu_count,
                "wrapt": lambda: importlib.metadata.version("wrapt"),
            }
        ),
        "hosts": hosts,
        "lacking": lacking(),
        "start methods": _all(
            {
                "default": lambda: multiprocessing.get_context().get_start_method(),
                "available": multiprocessing.get_all_start_methods,
                "SIGCHLD": _sigchld,
            }
        ),
        "abilities": [asdict(ability) for ability in abilities()],
        "shared memory": memory if usable else {"kind": memory},
        "POOLWARDEN": _all({"active": _active, "start-up files": _startup_files, **_variables()}),
    }
    shortened: dict[str, Any] = _shortened(found)
    return shortened


def _attempt(check: Callable[[], Any]) -> Any:
    try:
        return check()
    # SystemExit too: what a host's module does when it is imported is not ours.
    except (Exception, SystemExit) as error:
        return f"could not be checked: {type(error).__name__}: {error}"


def _all(checks: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    return {name: _attempt(check) for name, check in checks.items()}


def _shortened(value: Any) -> Any:
    """Return `value` with the home directory as ``~`` in every text."""
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value) if isinstance(value, str) and home else value


def _host(host: Host) -> dict[str, Any]:
    report: dict[str, Any] = {
        "kind": host.kind,
        "installed": True,
        "version": f"Python {platform.python_version()}",
        "can_be_guarded": False,
        "found": 0,
        "missing": [],
        "problem": None,
    }
    if host.distribution:
        try:
            report["version"] = f"{host.distribution} {importlib.metadata.version(host.distribution)}"
        except importlib.metadata.PackageNotFoundError:
            if importlib.util.find_spec(host.module.partition(".")[0]) is None:
                return {**report, "installed": False, "version": None}
            report["version"] = f"{host.distribution}, version not known"
    seams = _attempt(lambda: _seams(host))
    if isinstance(seams, str):
        return {**report, "problem": seams}
    problems = [seam.problem() for seam in seams]
    report["missing"] = [problem for problem in problems if problem is not None]
    report["found"] = problems.count(None)
    report["can_be_guarded"] = not report["missing"] and not lacking()
    return report


def _seams(host: Host) -> tuple[Any, ...]:
    importlib.import_module(host.module)
    return tuple(load(host).all_seams())


def _python() -> str:
    build = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{build} ({', '.join(platform.python_build())}), {sys.executable}"


def _sigchld() -> str:
    number = getattr(signal, "SIGCHLD", None)
    if number is None:
        return "not known here"
    if signal.getsignal(number) == signal.SIG_IGN:
        return "ignored: exit codes of workers cannot be known"
    return "not ignored"


def _memory() -> dict[str, Any]:
    memory = PoolMemory(1, "builtins:object")
    try:
        kind = "a memory file" if memory.main.fd >= 0 else "anonymous memory, for forked workers alone"
    finally:
        memory.close()
    return {"kind": kind, "room": f"{free_memory() / 2**20:,.0f} MB free"}


def _active() -> str:
    """Return whether programs are guarded by the variable, and if not, why not."""
    text = os.environ.get("POOLWARDEN", "1" if os.environ.get("POOLWARDEN_REPORT") else None)
    if text is None:
        return f"no: POOLWARDEN is not set ({_would_be()})"
    try:
        policy = Policy.from_env(text)
    except poolwarden.ConfigurationError as error:
        return f"no: {error}"
    if policy is None:
        return f"no: POOLWARDEN={text!r} means off"
    return "yes" if _starts() else f"no: {_why_not()}"


def _would_be() -> str:
    return "POOLWARDEN=1 would be seen" if _starts() else f"and would not be seen: {_why_not()}"


def _starts() -> bool:
    """Return whether a new interpreter sees the variable; one is started to know."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("POOLWARDEN_")}
    ran = subprocess.run(
        [sys.executable, *_flags(), "-c", _PROBE],
        env={**variables, "POOLWARDEN": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_BOUND,
        check=True,
    )
    return ran.stdout.strip() == "True"


def _flags() -> list[str]:
    """Return the options of this interpreter that decide on start-up files."""
    options = {"-S": sys.flags.no_site, "-I": sys.flags.isolated, "-s": sys.flags.no_user_site}
    return [option for option, given in options.items() if given]


def _why_not() -> str:
    if sys.flags.no_site:
        return "Python runs with -S, so there are no start-up files"
    if not _find_startup_files():
        here = str(Path(poolwarden.__file__).parents[1])
        if here in _site_folders():
            return f"there is no start-up file in {here}: install poolwarden again"
        return f"poolwarden is in {here}, where no start-up file is read: install it, or use poolwarden run"
    return "the start-up files were not run: see whether their directory is one that Python's site reads"


def _startup_files() -> list[str] | str:
    return [str(file) for file in _find_startup_files()] or "none found"


def _find_startup_files() -> list[Path]:
    return [file for folder in _site_folders() for file in sorted(Path(folder).glob("poolwarden_startup.*"))]


def _site_folders() -> list[str]:
    return list(dict.fromkeys([*site.getsitepackages(), site.getusersitepackages()]))


def _variables() -> dict[str, Callable[[], str]]:
    """Return each ``POOLWARDEN*`` variable with what gives its value."""
    names = sorted(name for name in os.environ if name.startswith("POOLWARDEN"))
    return {f"${name}": functools.partial(os.environ.__getitem__, name) for name in names}
