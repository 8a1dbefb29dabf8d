"""Reports of real programs: who writes them, when, and what is in them."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys

import pytest

from poolwarden.errors import ConfigurationError
from poolwarden.report import start, writing
from tests.contract.waiting import DEADLINE
from tests.report.markup import Page
from tests.report.programs import SOURCE, run
from tests.report.schema import check

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the programs use fork and SIGKILL")

#: Deaths of every kind, with an argument nobody may read, and a name that wants to be markup.
DEATHS = """
import ctypes, signal
report.start(sys.argv[1])
def named(secret): os.kill(os.getpid(), signal.SIGKILL)
named.__qualname__ = "<img src=x onerror=alert(1)>&amp;"
def crash(secret): ctypes.string_at(0)
def stuck(secret):
    try:
        raise ValueError("told " + secret)
    except ValueError:
        time.sleep(60)
def endless(secret): time.sleep(60)
globals()[named.__qualname__] = named
pool = guard(multiprocessing.get_context("fork").Pool(2), timeout=0.4, grace=5)
for task, name in ((named, "WorkerLostError"), (crash, "WorkerLostError"), (stuck, "TaskTimeoutError")):
    try:
        pool.apply(task, ("hunter2",))
    except Exception as error:
        assert type(error).__name__ == name, error
guard(pool, timeout=0.4)
try:
    pool.apply(endless, ("hunter2",))
except Exception as error:
    assert type(error).__name__ == "TaskTimeoutError", error
guard(pool)
pool.map(nap, [0.15] * 4, chunksize=1)
idle = pool._pool[0].pid
for worker in pool._pool:
    os.kill(worker.pid, signal.SIGKILL)
pool.apply(nap, (0,))
pool.close()
pool.join()
"""


@pytest.fixture(scope="module")
def deaths(tmp_path_factory):
    """Paths of a JSON and an HTML report of `DEATHS`."""
    folder = tmp_path_factory.mktemp("deaths")
    paths = {}
    for suffix in ("json", "html"):
        paths[suffix] = folder / f"report.{suffix}"
        ran = run(DEATHS, paths[suffix])
        assert ran.returncode == 0, ran.stderr
        assert "Traceback" not in ran.stderr
    assert {path.name for path in folder.iterdir()} == {"program.py", "report.json", "report.html"}
    return paths


def test_json_has_every_event_as_the_schema_says(deaths):
    report = json.loads(deaths["json"].read_text())
    check(report)
    counts = report["counts"]
    assert counts["task_lost"] == 2
    assert counts["task_timeout"] == 2
    assert counts["worker_lost"] >= 1
    assert counts["pool_repaired"] >= 1
    assert not any(report["left_out"].values())
    assert sum(counts.values()) == len(report["events"])
    assert [event["time"] for event in report["events"]] == sorted(
        event["time"] for event in report["events"]
    )
    functions = {event["task"]["function"].rpartition(".")[2] for event in report["events"] if event["task"]}
    assert functions == {"<img src=x onerror=alert(1)>&amp;", "crash", "stuck", "endless"}


def test_losses_have_their_evidence_and_stack(deaths):
    events = json.loads(deaths["json"].read_text())["events"]
    by_name = {event["task"]["function"].rpartition(".")[2]: event for event in events if event["task"]}
    assert by_name["crash"]["exit"]["signal"] == "SIGSEGV"
    assert "in crash" in by_name["crash"]["stack"]
    assert "in endless" in by_name["endless"]["stack"]
    assert by_name["endless"]["exit"]["evidence"]
    assert "in stuck" in by_name["stuck"]["stack"]
    assert by_name["stuck"]["exit"] is None


def test_the_timeline_has_each_worker_and_what_it_did(deaths):
    (pool,) = json.loads(deaths["json"].read_text())["pools"]
    assert pool["opened"] <= pool["closed"]
    assert pool["calls"] == 9
    ends = [worker["end"] for worker in pool["workers"]]
    assert ends.count("killed") in (1, 2)
    assert ends.count("lost") >= 3
    assert "running" not in ends
    pids = {worker["pid"] for worker in pool["workers"]}
    lost = [bar for bar in pool["bars"] if bar["lost"]]
    assert len(lost) == 3
    for bar in pool["bars"]:
        assert bar["pid"] in pids
        assert bar["start"] <= bar["end"]
    naps = [bar for bar in pool["bars"] if bar["function"] == "__main__.nap"]
    assert {bar["index"] for bar in naps} >= {0, 1, 2, 3}


@pytest.mark.parametrize("suffix", ["json", "html"])
def test_arguments_are_never_in_it(deaths, suffix):
    assert "hunter2" not in deaths[suffix].read_text()


def test_html_is_one_page_that_fetches_and_runs_nothing(deaths):
    page = Page(deaths["html"].read_text())
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    names = {name for _, name, _ in page.attributes}
    assert not {"href", "src", "style"} & names
    assert not any(name.startswith("on") for name in names)
    css = deaths["html"].read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in css
    assert "@import" not in css


def test_html_shows_what_the_json_holds(deaths):
    page = Page(deaths["html"].read_text())
    # Four tasks, and one idle worker or both: the repair after the first may have killed the second.
    assert page.tags.count("article") in (5, 6)
    assert "<img src=x onerror=alert(1)>&amp;" in page.text
    assert "in crash" in page.text
    assert "poolwarden killed it: its task outran its timeout" in page.text
    for kind in ("lost", "killed", "repaired"):
        assert ("path", "class", kind) in page.attributes


def test_a_browser_shows_it(deaths, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium here")
    ran = subprocess.run(
        [
            *(
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}",
            ),
            *("--enable-logging=stderr", "--dump-dom", deaths["html"].as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert ran.returncode == 0, ran.stderr
    assert "CONSOLE" not in ran.stderr
    shown, written = Page(ran.stdout), Page(deaths["html"].read_text())
    # As the browser understood it: the same elements, so nothing had to be mended. It adds <tbody> nowhere.
    assert shown.tags == written.tags
    assert " ".join(shown.text.split()) == " ".join(written.text.split())


def test_nothing_is_written_when_nothing_happened(tmp_path):
    ran = run(
        "report.start(sys.argv[1])\nwith guard(multiprocessing.Pool(1)) as p: p.apply(nap, (0,))",
        tmp_path / "r.json",
    )
    assert ran.returncode == 0, ran.stderr
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("suffix", ["json", "html"])
def test_asked_for_by_name_it_is_written_in_any_case(tmp_path, suffix):
    path = tmp_path / "new folder" / f"r.{suffix}"
    path.parent.mkdir()
    ran = run("report.start('deeper/' + sys.argv[1].rpartition('/')[2], always=True)\nos.chdir('/')", path)
    assert ran.returncode == 0, ran.stderr
    text = (path.parent / "deeper" / path.name).read_text()
    if suffix == "json":
        check(json.loads(text))
    else:
        assert "Nothing was lost" in Page(text).text


@pytest.mark.parametrize(
    ("end", "status"),
    [("sys.exit(7)", 7), ("raise ValueError('over')", 1), ("raise KeyboardInterrupt", -2)],
)
def test_it_is_written_however_the_program_ends(tmp_path, end, status):
    ran = run(f"report.start(sys.argv[1])\nlose()\n{end}", tmp_path / "r.json")
    assert ran.returncode == status
    check(json.loads((tmp_path / "r.json").read_text()))


def test_a_place_that_cannot_be_written_costs_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    ran = run("report.start('file/r.json')\nlose()\nsys.exit(7)", tmp_path / "r.json")
    assert ran.returncode == 7
    (line,) = [line for line in ran.stderr.splitlines() if "report" in line]
    assert line.startswith("poolwarden: no report could be written to")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "program.py"}


def test_writing_starts_no_process(tmp_path, monkeypatch):
    """A worker that is forked meanwhile would keep its pipes open, and the report's thread would wait."""

    def refuse(*args, **kwargs):
        raise AssertionError("a process was started")

    platform._uname_cache = None
    monkeypatch.setattr(subprocess, "Popen", refuse)
    for suffix in writing.SUFFIXES:
        writer = writing.Writer(str(tmp_path / f"r{suffix}"), always=True)
        writer.write()
        assert writer.is_written


def test_a_planted_link_is_not_followed(tmp_path):
    """Neither under a name that the unfinished file might have, nor under the report's own."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    program = """
    report.start(sys.argv[1])
    for name in (f"r.json.{os.getpid()}.new", "r.json.new", "r.json"):
        os.symlink("victim", name)
    lose()
    """
    ran = run(program, tmp_path / "r.json")
    assert ran.returncode == 0, ran.stderr
    assert victim.read_text() == "precious"
    check(json.loads((tmp_path / "r.json").read_text()))
    assert not (tmp_path / "r.json").is_symlink()


def test_other_processes_write_beside_it_or_nothing(tmp_path):
    """A subprocess and a fork that lose something write their own file, a worker with a pool does not."""
    program = """
    report.start(os.environ.get("POOLWARDEN_REPORT", sys.argv[1]), always=True)
    if len(sys.argv) > 2:
        lose()
        sys.exit()
    lose()
    sub = subprocess.Popen([sys.executable, *sys.argv, "again"])
    assert sub.wait(30) == 0
    fork = os.fork()
    if not fork:
        lose()
        sys.exit()
    assert os.waitpid(fork, 0)[1] == 0
    for method in ("fork", "spawn"):
        worker = multiprocessing.get_context(method).Process(target=lose)
        worker.start()
        worker.join()
        assert worker.exitcode == 0, worker.exitcode
    quiet = f"from poolwarden import report; report.start({sys.argv[1]!r}, always=True)"
    assert subprocess.call([sys.executable, "-c", quiet]) == 0
    print(sub.pid, fork)
    """
    ran = run(program, tmp_path / "r.json")
    assert ran.returncode == 0, ran.stderr
    others = [f"r-{pid}.json" for pid in ran.stdout.split()]
    assert {path.name for path in tmp_path.iterdir()} == {"program.py", "r.json", *others}
    for path in tmp_path.glob("*.json"):
        report = json.loads(path.read_text())
        check(report)
        assert report["counts"] == {"task_lost": 1}, path


@pytest.mark.parametrize("name", ["report", "report.txt", "report.json.gz", ""])
def test_another_suffix_is_refused_and_the_valid_ones_named(name):
    with pytest.raises(ConfigurationError, match=r"\.json or \.html"):
        start(name)
    assert writing._writer is None


def test_without_a_report_nobody_looks(tmp_path):
    program = """
    import threading
    with guard(multiprocessing.Pool(1)) as pool:
        pool.apply(nap, (0,))
        assert pool._poolwarden.guard._observers == ()
        assert not [t for t in threading.enumerate() if t.name == "poolwarden-report"]
    assert "poolwarden.report.sampling" not in sys.modules
    """
    ran = run(program, tmp_path / "r.json")
    assert ran.returncode == 0, ran.stderr


def test_to_ask_for_a_report_imports_no_pool(tmp_path):
    """The variable may be set for programs that never make one."""
    program = "import sys; from poolwarden import report; report.start(sys.argv[1]); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program, str(tmp_path / "r.json")],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stdout.split())
    assert not {
        name for name in loaded if name.partition(".")[0] in ("multiprocessing", "concurrent", "wrapt")
    }
    assert not loaded & {"dataclasses", "json", "logging", "inspect"}
