"""Every module can be imported where there is nothing but what Windows has of the standard library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.contract.waiting import DEADLINE

#: Takes away what only Unix has, and prints the modules that cannot be imported then. The standard
#: library's own come before that: there, they are written for either.
PROGRAM = """
import concurrent.futures.process, importlib, logging, multiprocessing.connection, multiprocessing.pool, os
import pkgutil, secrets, select, shutil, signal, subprocess, sys, tempfile, threading, wrapt

for module, names in {
    os: "WNOHANG WEXITED WNOWAIT P_PID CLD_EXITED waitid fork register_at_fork pidfd_open getuid pread "
        "pwrite posix_fallocate O_NOFOLLOW O_CLOEXEC O_ASYNC",
    select: "poll epoll POLLIN POLLOUT PIPE_BUF",
    signal: "SIGKILL SIGSTOP SIGCONT SIGCHLD SIGALRM SIGRTMAX setitimer pidfd_send_signal",
}.items():
    for name in names.split():
        vars(module).pop(name, None)
sys.modules["fcntl"] = sys.modules["resource"] = None

import poolwarden

for found in pkgutil.walk_packages(poolwarden.__path__, "poolwarden."):
    if not found.name.endswith("__main__") and "pytest" not in found.name:
        try:
            importlib.import_module(found.name)
        except Exception as error:
            # Hosts need not be installed.
            if str(getattr(error, "name", "")).partition(".")[0] not in ("joblib", "loky", "multiprocess"):
                print(found.name, repr(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there they are missing already")
def test_nothing_needs_unix_to_be_imported() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=DEADLINE, check=True
    )

    assert found.stdout == ""
