"""A program whose workers, or itself, end up where files cannot be made, opened or found.

``python -m tests.attack.elsewhere CHANGE WHO AGE BINDING START_METHOD`` does this: WHO (``worker``: in its
initializer, ``parent``: behind the pool's making, ``start``: before it) changes its surroundings; the pool
is guarded before its workers start (AGE ``born``) or behind their first task (``older``). Then payloads of
all sizes go both ways, workers die, tasks hang. It exits with 0 if all is as it would be without that.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

from poolwarden import TaskTimeoutError, WorkerLostError, guard, install, limits, uninstall
from tests.contract.binding import PoolBinding
from tests.contract.waiting import DEADLINE, ENDING, within

#: Bytes: inside a message, beyond it, beyond a pipe, beyond what is kept beside it for long.
SIZES = (10, 5_000, 70_000, 3_000_000)
NOBODY = 65534
#: Names of the folders that poolwarden had for its payloads; nobody else has such.
FOLDER = re.compile(rf"poolwarden-{os.getuid()}-[0-9a-f]{{12}}")


def echo(data: bytes) -> bytes:
    return data


def make(size: int, seed: int) -> bytes:
    return bytes([seed]) * size


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever() -> None:
    while True:
        signal.pause()


def nothing() -> None:
    """Change nothing: what must work anywhere."""


def user() -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def root() -> None:
    # What is imported later must be there before: a bare worker needs that as well.
    for name in ("poolwarden.worker.envelope", "poolwarden.errors", "poolwarden.limited"):
        importlib.import_module(name)
    for name in ("traceback", "linecache", "pickle"):
        importlib.import_module(name)
    os.chroot("/var/empty" if os.path.isdir("/var/empty") else "/var/lib")
    os.chdir("/")


def root_and_user() -> None:
    root()
    user()


def file_size() -> None:
    # A semaphore of the host's takes some bytes of a file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def descriptors() -> None:
    """Leave room for a few descriptors more, as many as a bare pool needs."""
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def addresses() -> None:
    """Leave room for 600 MB of addresses more."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (600 << 20), resource.RLIM_INFINITY))


def namespaces() -> None:
    # CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000 | 0x08000000 | 0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")


def swept() -> None:
    """Do what a logout does with ``RemoveIPC``, as far as it is the guard's."""
    for place in ("/dev/shm", "/tmp"):
        for name in os.listdir(place):
            if FOLDER.fullmatch(name):
                shutil.rmtree(f"{place}/{name}", ignore_errors=True)


def masked() -> None:
    os.umask(0o777)


CHANGES: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        nothing, user, root, root_and_user, file_size, descriptors, addresses, namespaces, swept, masked,
    )
}  # fmt: skip


def check(host: PoolBinding, pool: Any, may_signal: bool, is_older: bool) -> None:
    """Send payloads both ways, lose workers and time tasks out."""
    for round_ in (1, 2):
        handles = []
        for size in SIZES:
            data = bytes([round_]) * size
            handles.append((data, host.submit(pool, echo, data)))
            handles.append((data, host.submit(pool, make, size, round_)))
        for data, handle in handles:
            assert host.result(handle) == data, (round_, len(data))
        ends = [(WorkerLostError, host.submit(pool, die))]
        if may_signal:
            ends.append((TaskTimeoutError, host.submit(pool, limits(wait_for_ever, timeout=0.3))))
        for error, handle in ends:
            try:
                host.result(handle)
            except error:
                continue
            raise AssertionError(f"no {error.__name__}")
        # The other older workers end with one of them, whatever they do: nothing is known of them.
        if may_signal and not is_older:
            for pid in host.idle_pids(pool):
                os.kill(pid, signal.SIGKILL)


def main(change: str, who: str, age: str, binding: str, method: str) -> None:
    """Run it all."""
    module, _, name = binding.partition(":")
    host: PoolBinding = getattr(importlib.import_module(module), name)()
    action = CHANGES[change]
    if who == "start":
        action()
    initializer = action if who == "worker" else None
    if age == "older":
        pool = host.make_bare(2, method, initializer=initializer)
        assert host.result(host.submit(pool, echo, b"before")) == b"before"
        guard(pool)
    else:
        install()
        pool = host.make_bare(2, method, initializer=initializer)
        uninstall()
        # The first worker: what comes later is born as its replacements are.
        assert host.result(host.submit(pool, echo, b"before")) == b"before"
    if who == "parent":
        action()
    # Who has given up root can signal none of root's processes: a bare pool cannot be terminated either.
    may_signal = (change, who) != ("user", "parent")
    within(4 * DEADLINE, check, host, pool, may_signal, age == "older")
    within(ENDING, host.terminate if may_signal else host.close, pool)


if __name__ == "__main__":
    main(*sys.argv[1:])
