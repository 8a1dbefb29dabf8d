"""How much memory may still be taken: the least of what the machine and the cgroups allow."""

from __future__ import annotations

import sys

import pytest

from poolwarden.system.free_memory import free_memory

MB = 1 << 20


@pytest.fixture
def root(tmp_path):
    """A made-up system."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 4096000 kB\nMemAvailable:    2048 kB\n")
    return write


def cgroups(write, version):
    if version == 2:
        write("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        write("proc/self/cgroup", "0::/job\n")
    else:
        write("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
        write("proc/self/cgroup", "5:memory:/job\n")


def test_the_machine_says_what_is_there(root, tmp_path):
    assert free_memory(str(tmp_path)) == 2 * MB


def test_a_system_that_says_nothing_has_no_limit(tmp_path):
    assert free_memory(str(tmp_path)) == sys.maxsize


@pytest.mark.parametrize(
    ("version", "limit", "use"),
    [(1, "memory.limit_in_bytes", "memory.usage_in_bytes"), (2, "memory.max", "memory.current")],
)
@pytest.mark.parametrize(("said", "found"), [(str(5 * MB), MB), ("max", 2 * MB), (str(3 * MB), 0)])
def test_a_cgroup_may_allow_less(root, tmp_path, version, limit, use, said, found):
    cgroups(root, version)
    where = "sys/fs/cgroup/job" if version == 2 else "sys/fs/cgroup/memory/job"
    root(f"{where}/{limit}", f"{said}\n")
    root(f"{where}/{use}", f"{4 * MB}\n")
    assert free_memory(str(tmp_path)) == found
