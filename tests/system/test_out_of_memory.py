"""Counters of out-of-memory kills, on made-up trees of both cgroup versions."""

from __future__ import annotations

import pytest

from poolwarden.system import out_of_memory
from poolwarden.system.out_of_memory import OomWatch

# Lines as real systems show them: a machine with version 1, Docker's bind mounts, systemd's version 2.
V1_MOUNTS = """\
23 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 {top} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime shared:9 master:2 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2_MOUNTS = """\
23 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 23 0:26 {top} /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""
V1_CGROUP = "9:name=systemd:/elsewhere\n4:cpuacct,memory:{path}\n1:cpu:/elsewhere\n0::/elsewhere\n"
V2_CGROUP = "0::{path}\n"
V1_COUNTER = "oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n"
V2_COUNTER = "low 0\nhigh 0\nmax 71\noom 6\noom_kill {count}\noom_group_kill 0\n"
VMSTAT = "nr_free_pages 1\noom_kill {count}\nnuma_hit 1\n"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Machine:
    """A fake root; `mounted` is the cgroup at the top of what is mounted."""

    def __init__(self, root, version, mounted="/", mounts=None):
        self.root, self.version, self.mounted = root, version, mounted
        self.clock = Clock()
        text = mounts or (V1_MOUNTS if version == 1 else V2_MOUNTS).format(top=mounted)
        self.write("proc/self/mountinfo", text)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, pid, cgroup, state="S"):
        lines = V1_CGROUP if self.version == 1 else V2_CGROUP
        self.write(f"proc/{pid}/cgroup", lines.format(path=cgroup))
        self.write(f"proc/{pid}/stat", f"{pid} (py) thon) {state} 1 1 1 0 -1 4227084\n")

    def dies(self, pid, cgroup):
        """The process becomes what the kernel shows until it is waited for."""
        self.process(pid, "/" if self.version == 1 else cgroup, state="Z")

    def waited_for(self, pid):
        for name in ("cgroup", "stat"):
            (self.root / f"proc/{pid}/{name}").unlink()

    def counter_file(self, cgroup):
        below = cgroup[len(self.mounted.rstrip("/")) :].lstrip("/")
        directory, name = ("/memory", "memory.oom_control") if self.version == 1 else ("", "memory.events")
        return f"sys/fs/cgroup{directory}/{below}/{name}"

    def count(self, cgroup, count):
        text = V1_COUNTER if self.version == 1 else V2_COUNTER
        self.write(self.counter_file(cgroup), text.format(count=count))

    def count_local(self, cgroup, count):
        self.write(f"{self.counter_file(cgroup)}.local", V2_COUNTER.format(count=count))

    def namespace(self, name):
        link = self.root / "proc/self/ns/pid"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(name)

    def log(self, *victims):
        """Write the kernel's log; each victim's line is as real ones are."""
        kinds = ("Memory cgroup out of memory", "Out of memory", "Out of memory (oom_kill_allocating_task)")
        lines = [
            "6,1,5,-;idle-reclaim (81): drop_caches: 1",
            "12,2,6,-;Out of memory: Killed process 1 (forged)",
        ]
        for number, pid in enumerate(victims):
            lines.append(f"3,{number},9,-;{kinds[number % 3]}: Killed process {pid} (python) total-vm:1kB")
        self.write("dev/kmsg", "".join(f"{line}\n" for line in lines))

    def machine_count(self, count):
        self.write("proc/vmstat", VMSTAT.format(count=count))

    def watch(self):
        return OomWatch(str(self.root), clock=self.clock)


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def machine(request, tmp_path):
    machine = Machine(tmp_path, request.param)
    machine.process("self", "/app")
    machine.process(7, "/app")
    machine.process(8, "/app")
    machine.count("/app", 3)
    machine.machine_count(9)
    return machine


@pytest.fixture
def v1(tmp_path):
    machine = Machine(tmp_path, 1)
    machine.process("self", "/app")
    machine.count("/app", 3)
    machine.machine_count(9)
    return machine


@pytest.fixture
def v2(tmp_path):
    machine = Machine(tmp_path, 2)
    machine.process("self", "/app")
    machine.count("/app", 3)
    machine.machine_count(9)
    return machine


@pytest.mark.parametrize("reaped", [False, True])
def test_a_kill_is_told_once(machine, reaped):
    watch = machine.watch()
    watch.note(7)
    machine.dies(7, "/app")
    if reaped:
        machine.waited_for(7)
    assert watch.moved(7) is None
    machine.count("/app", 4)
    machine.machine_count(10)
    assert watch.moved(7) == "memory cgroup /app: oom_kill 3 → 4"
    assert watch.moved(7) is None
    watch.note(8)
    machine.dies(8, "/app")
    assert watch.moved(8) is None
    machine.count("/app", 5)
    assert watch.moved(8) == "memory cgroup /app: oom_kill 4 → 5"


def test_two_workers_killed_in_one_moment_are_both_explained(machine):
    watch = machine.watch()
    watch.note(7)
    watch.note(8)
    machine.dies(7, "/app")
    machine.dies(8, "/app")
    machine.count("/app", 5)
    machine.machine_count(11)
    assert watch.moved(7) == "memory cgroup /app: oom_kill 3 → 5"
    assert watch.moved(8) == "memory cgroup /app: oom_kill 4 → 5"
    assert watch.moved(8) is None


def test_a_replacement_born_before_the_question_hides_nothing(machine):
    watch = machine.watch()
    watch.note(7)
    machine.dies(7, "/app")
    machine.count("/app", 4)
    watch.note(8)
    assert watch.moved(7) == "memory cgroup /app: oom_kill 3 → 4"


def test_a_kill_that_nobody_asked_about_is_forgotten(machine):
    watch = machine.watch()
    watch.note(7)
    machine.count("/app", 4)  # some other process in the same cgroup
    machine.machine_count(10)
    watch.note(8)
    machine.clock.now += out_of_memory.LEFTOVER + 1
    machine.dies(7, "/app")
    assert watch.moved(7) is None


def test_a_worker_in_a_cgroup_of_its_own(machine):
    machine.process(7, "/app/w")
    machine.count("/app/w", 0)
    watch = machine.watch()
    watch.note(7)
    machine.dies(7, "/app/w")
    machine.count("/app", 4)  # another worker's
    assert watch.moved(7) is None
    machine.count("/app/w", 1)
    assert watch.moved(7) == "memory cgroup /app/w: oom_kill 0 → 1"


def test_a_worker_that_was_never_noted_counts_in_our_cgroup(machine):
    watch = machine.watch()
    machine.count("/app", 4)
    assert watch.moved(99) == "memory cgroup /app: oom_kill 3 → 4"


def test_forget(machine):
    machine.process(7, "/app/w")
    machine.count("/app/w", 0)
    watch = machine.watch()
    watch.note(7)
    watch.forget(7)
    watch.forget(7)
    machine.waited_for(7)
    machine.count("/app/w", 1)
    assert watch.moved(7) is None


def test_a_cgroup_made_again_starts_from_zero(machine):
    watch = machine.watch()
    watch.note(7)
    machine.count("/app", 1)
    assert watch.moved(7) == "memory cgroup /app: oom_kill 0 → 1"


def test_v2_finds_where_the_worker_went_after_birth(v2):
    v2.process(7, "/app")
    watch = v2.watch()
    watch.note(7)
    v2.dies(7, "/late")
    v2.count("/late", 2)
    v2.machine_count(10)
    assert watch.moved(7) == (
        "likely: memory cgroup /late: oom_kill 0 → 2 (not looked at before, so counted from 0)"
    )


def test_v2_does_not_believe_a_pid_that_lives_again(v2):
    v2.process(7, "/app")
    watch = v2.watch()
    watch.note(7)
    v2.process(7, "/stranger")
    v2.count("/stranger", 5)
    assert watch.moved(7) is None


def test_v2_walks_up_when_the_cgroup_was_removed(v2):
    v2.process(7, "/app/w")
    v2.count("/app/w", 0)
    watch = v2.watch()
    watch.note(7)
    (v2.root / v2.counter_file("/app/w")).unlink()
    v2.process(7, "/app/w (deleted)", state="Z")
    v2.count("/app", 4)
    assert watch.moved(7) == (
        "likely: memory cgroup /app: oom_kill 3 → 4 (the worker was in /app/w, which cannot be read)"
    )


def test_v1_does_not_walk_up(v1):
    v1.process(7, "/app/w")
    v1.count("/app/w", 0)
    watch = v1.watch()
    watch.note(7)
    v1.waited_for(7)
    (v1.root / v1.counter_file("/app/w")).unlink()
    v1.count("/app", 4)
    assert watch.moved(7) is None


def test_v1_note_of_one_that_already_exited_uses_our_cgroup(v1):
    v1.count("/", 0)
    v1.dies(7, "/app")
    watch = v1.watch()
    watch.note(7)
    v1.count("/app", 4)
    assert watch.moved(7) == "memory cgroup /app: oom_kill 3 → 4"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/w"])
def test_a_container_that_sees_its_own_part_of_the_tree(tmp_path, version, path):
    machine = Machine(tmp_path, version, mounted="/docker/abc")
    machine.process("self", "/docker/abc")
    machine.process(7, path)
    machine.count("/docker/abc", 0)
    machine.count(path, 0)
    watch = machine.watch()
    watch.note(7)
    machine.count(path, 1)
    machine.waited_for(7)
    assert watch.moved(7) == f"memory cgroup {path}: oom_kill 0 → 1"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("top", ["/docker/abc", "/../.."])
def test_a_cgroup_that_is_not_in_the_mount(tmp_path, version, top):
    machine = Machine(tmp_path, version, mounted=top)
    machine.process("self", "/system")
    machine.process(7, "/system")
    machine.count(top, 0)
    watch = machine.watch()
    watch.note(7)
    machine.waited_for(7)
    machine.count(top, 1)
    assert watch.moved(7) == (
        f"likely: memory cgroup {top}: oom_kill 0 → 1 (the worker was in /system, which cannot be read)"
    )


def test_a_cgroup_outside_of_our_namespace_is_not_looked_for(machine):
    watch = machine.watch()
    machine.process(7, "/../../etc")
    watch.note(7)
    machine.count("/../../etc", 0)
    machine.waited_for(7)
    machine.count("/../../etc", 1)
    assert watch.moved(7) is None


def test_of_several_mounts_the_one_that_holds_us_is_used(tmp_path):
    line = "30 23 0:26 {top} {at} rw - cgroup2 cgroup2 rw\n"
    mounts = line.format(top="/other", at="/a") + line.format(top="/", at=r"/sys/fs/with\040space")
    machine = Machine(tmp_path, 2, mounts=mounts)
    machine.process("self", "/app")
    machine.write("sys/fs/with space/app/memory.events", V2_COUNTER.format(count=0))
    watch = machine.watch()
    machine.write("sys/fs/with space/app/memory.events", V2_COUNTER.format(count=1))
    assert watch.moved(7) == "memory cgroup /app: oom_kill 0 → 1"


def test_without_a_cgroup_the_machines_counter_is_a_guess(tmp_path):
    machine = Machine(tmp_path, 2, mounts="23 1 254:0 / / rw - ext4 /dev/root rw\n")
    machine.machine_count(9)
    watch = machine.watch()
    watch.note(7)
    assert watch.moved(7) is None
    machine.machine_count(10)
    machine.clock.now += out_of_memory.RECENT + 1
    assert watch.moved(7) == "likely: this machine's oom_kill 9 → 10, no memory cgroup to read"
    assert watch.moved(7) is None


def test_the_root_cgroup_of_v2_has_no_counter(tmp_path):
    machine = Machine(tmp_path, 2)
    machine.process("self", "/")
    machine.machine_count(0)
    watch = machine.watch()
    machine.machine_count(1)
    assert watch.moved(7) == "likely: this machine's oom_kill 0 → 1, no memory cgroup to read"


@pytest.mark.parametrize("known", [True, False], ids=["noted", "never noted"])
@pytest.mark.parametrize("reaped", [False, True], ids=["exited", "waited for"])
def test_a_kill_elsewhere_on_the_machine_is_not_the_workers(machine, reaped, known):
    watch = machine.watch()
    if known:
        watch.note(7)
    machine.dies(7, "/app")
    if reaped:
        machine.waited_for(7)
    machine.machine_count(10)
    assert watch.moved(7) is None


@pytest.mark.parametrize("below", ["/app/other", "/app/w/other"])
def test_v2_does_not_take_a_kill_below_its_cgroup_for_its_own(v2, below):
    v2.process(7, "/app/w")
    for cgroup in ("/app", "/app/w", below):
        v2.count(cgroup, 0)
        v2.count_local(cgroup, 0)
    watch = v2.watch()
    watch.note(7)
    v2.dies(7, "/app/w")
    for cgroup in {"/app", "/app/w", below} if "w" in below.split("/") else {"/app", below}:
        v2.count(cgroup, 1)
    v2.count_local(below, 1)
    v2.machine_count(10)
    assert watch.moved(7) is None
    v2.count_local("/app/w", 1)
    assert watch.moved(7) == "memory cgroup /app/w: oom_kill 0 → 1"


@pytest.mark.parametrize("moved", [True, False])
def test_v2_old_kills_of_the_cgroup_a_worker_went_to_are_not_its_own(v2, moved):
    v2.process(7, "/app")
    watch = v2.watch()
    watch.note(7)
    v2.dies(7, "/late")
    v2.count("/late", 2)
    if moved:
        v2.machine_count(10)
    assert (watch.moved(7) is not None) == moved


def test_a_kill_that_may_be_long_ago_is_only_likely(machine):
    watch = machine.watch()
    watch.note(7)
    machine.clock.now += out_of_memory.RECENT + 1
    machine.count("/app", 4)
    machine.machine_count(10)
    assert watch.moved(7) == "likely: memory cgroup /app: oom_kill 3 → 4 (last looked at 61 s before)"


class TestKernelLog:
    """What the log says goes before the counters; only the machine's own pids mean anything there."""

    @pytest.fixture(autouse=True)
    def _in_the_first_namespace(self, machine):
        machine.count("/app", 3)
        machine.namespace("pid:[4026531836]")

    def test_names_a_worker_that_has_left_its_cgroup(self, v1):
        watch = v1.watch()
        watch.note(7)
        v1.dies(7, "/app")
        v1.machine_count(10)
        v1.log(7)
        assert (
            watch.moved(7) == "likely: this machine's oom_kill 9 → 10, and the kernel's log names the worker"
        )
        assert watch.moved(8) is None

    def test_names_somebody_else_of_the_same_cgroup(self, machine):
        watch = machine.watch()
        watch.note(7)
        machine.dies(7, "/app")
        machine.count("/app", 4)
        machine.machine_count(10)
        machine.log(3, 4, 77)
        assert watch.moved(7) is None

    def test_each_of_several_is_found_in_any_order(self, machine):
        watch = machine.watch()
        for pid in (7, 8):
            watch.note(pid)
            machine.dies(pid, "/app")
        machine.count("/app", 5)
        machine.machine_count(11)
        machine.log(7, 8)
        assert watch.moved(8) == "memory cgroup /app: oom_kill 3 → 5"
        assert watch.moved(7) == "memory cgroup /app: oom_kill 4 → 5"

    def test_earlier_victims_with_the_same_pid_do_not_count(self, machine):
        watch = machine.watch()
        watch.note(7)
        machine.dies(7, "/app")
        machine.machine_count(10)
        machine.log(7, 55)
        assert watch.moved(7) is None

    @pytest.mark.parametrize("odd", ["missing", "namespace", "short", "forged"])
    def test_without_a_log_that_can_be_trusted_the_counters_count(self, machine, odd):
        watch = machine.watch()
        watch.note(7)
        machine.dies(7, "/app")
        machine.count("/app", 4)
        machine.machine_count(10)
        if odd == "namespace":
            machine.log(99)
            machine.namespace("pid:[4026532999]")
        elif odd == "short":
            machine.log()
        elif odd == "forged":
            machine.write("dev/kmsg", "12,1,5,-;Out of memory: Killed process 99 (x)\n")
        assert watch.moved(7) == "memory cgroup /app: oom_kill 3 → 4"

    def test_decides_where_there_is_no_cgroup(self, tmp_path):
        machine = Machine(tmp_path / "m", 2, mounts="23 1 254:0 / / rw - ext4 /dev/root rw\n")
        machine.namespace("pid:[4026531836]")
        machine.machine_count(9)
        watch = machine.watch()
        machine.machine_count(10)
        machine.log(99)
        assert watch.moved(7) is None
        assert (
            watch.moved(99) == "likely: this machine's oom_kill 9 → 10, and the kernel's log names the worker"
        )


def test_v2_knows_that_a_kill_on_the_machine_was_elsewhere(v2):
    v2.process(7, "/app")
    watch = v2.watch()
    watch.note(7)
    v2.dies(7, "/app")
    v2.machine_count(10)
    assert watch.moved(7) is None


def test_nothing_to_read_is_not_an_error(tmp_path):
    watch = OomWatch(str(tmp_path / "missing"))
    watch.note(7)
    assert watch.moved(7) is None
    watch.forget(7)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proc/self/mountinfo", "\n - \n1 2 3 - cgroup\n- - - - -\n" + "x" * 5000),
        ("proc/self/cgroup", "4:memory\n::\n\n0::\n"),
        ("proc/7/cgroup", "\x00\n4:memory:\x00\n"),
        ("proc/vmstat", "oom_kill many\n"),
        ("sys/fs/cgroup/memory/app/memory.oom_control", "oom_kill -1\n"),
        ("sys/fs/cgroup/app/memory.events", ""),
    ],
)
def test_files_that_make_no_sense_are_not_an_error(machine, name, text):
    machine.write(name, text)
    watch = machine.watch()
    watch.note(7)
    assert watch.moved(7) is None
