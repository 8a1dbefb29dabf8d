"""However much happens, a report stays small, and says what it left out."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from poolwarden.core.observing import Running
from poolwarden.records import Event, TaskInfo, WorkerExit
from poolwarden.report import document, page, recording, track
from poolwarden.report.recording import Recording
from poolwarden.report.track import Track
from tests.report.markup import Page
from tests.report.schema import check

NAME = "package." + "a_very_long_name_" * 30 + '.<locals>.<lambda>"\x00\u202e</title>'


@pytest.fixture
def clock(monkeypatch):
    """Returns a list whose one number is the time that tracks see."""
    times = [time.monotonic()]

    class Clock:
        @staticmethod
        def now():
            return times[0]

    monkeypatch.setattr(track, "clock", Clock)
    return times


def recorded(clock, losses, workers):
    """Return what is kept of a pool whose workers die one after the other."""
    run = Recording()
    lanes = Track("Pool-1", "Pool", run.event)
    run.tracks.append(lanes)
    for pid in range(workers):
        lanes.worker_started(pid)
    for number in range(losses):
        clock[0] += 0.05
        pid = number % workers + number // workers * workers
        lanes.saw(Running(pid, (number,), clock[0] - 0.03, NAME, number))
        exit = WorkerExit(pid, -9, "SIGKILL", "oom", ("memory cgroup /x: oom_kill 3 → 4",))
        event = Event(
            "task_lost",
            time.time(),
            "Pool-1",
            pid,
            TaskInfo(NAME, number, None, 1),
            exit,
            NAME,
            "frame\n" * 999,
        )
        lanes.event(event)
        lanes.worker_ended(pid, killed=False)
        lanes.worker_started(pid + workers)
    return run


def test_ten_thousand_losses_and_more(clock):
    run = recorded(clock, recording.LOSSES_MAX + 500, 64)
    found = document.describe(run)
    check(found)
    assert found["counts"] == {"task_lost": recording.LOSSES_MAX + 500}
    assert len(found["events"]) == recording.LOSSES_MAX
    assert found["left_out"]["events"] == 500
    kept = sum(len(event["stack"] or "") for event in found["events"])
    assert 0.9 * recording.STACKS_MAX < kept <= recording.STACKS_MAX
    assert found["left_out"]["stacks"] == sum(event["stack"] is None for event in found["events"])
    assert len(found["pools"][0]["bars"]) <= track.BARS_MAX
    assert found["left_out"]["workers"] == 64 + 500


def test_the_page_of_ten_thousand_losses_is_small_and_whole(clock):
    text = page.render(document.describe(recorded(clock, recording.LOSSES_MAX, 64)))
    shown = Page(text)
    assert shown.tags.count("article") == page.DETAILS
    assert f"{recording.LOSSES_MAX - page.DETAILS:,} later ones not shown" in shown.text
    assert len(text) < 12_000_000
    assert "\x00" not in text
    assert "\u202e" not in text
    assert shown.tags.count("title") == 1 + text.count("</rect>") - text.count("/></rect>") + text.count(
        "</path>"
    )


def test_repairs_do_not_take_the_room_of_losses():
    run = Recording()
    for _ in range(recording.OTHERS_MAX + 3):
        run.event(Event("pool_repaired", 1.0, "Pool-1"))
    run.event(Event("task_lost", 2.0, "Pool-1"))
    assert run.left_out["events"] == 3
    assert run.events[-1].kind == "task_lost"


def test_a_million_short_tasks_become_few_long_bars(clock):
    """What would be two million bars of four workers stays within the bound, and covers the same time."""
    lanes = Track("Pool-1", "Pool", lambda event: None)
    for pid in range(4):
        lanes.worker_started(pid)
    begin = clock[0]
    looks = 20_000
    for number in range(looks):
        clock[0] += 0.02
        lanes.look([Running(pid, (number,), clock[0] - 0.01, "m.f", number) for pid in range(4)])
    bars = [bar for each in lanes.bars.values() for bar in each]
    assert len(bars) <= track.BARS_MAX
    assert sum(bar.tasks for bar in bars) == 4 * looks
    assert lanes.bars_left_out == 0
    for each in lanes.bars.values():
        assert each[0].start == pytest.approx(begin + 0.01)
        assert each[-1].end == clock[0]
        assert all(one.end <= next.start + 1e-9 for one, next in itertools.pairwise(each))


def test_a_lost_task_is_not_joined_with_those_behind_it(clock):
    lanes = Track("Pool-1", "Pool", lambda event: None)
    lanes.worker_started(1)
    for number in range(2 * track.BARS_MAX):
        clock[0] += 0.02
        lanes.saw(Running(1, (number,), clock[0], "m.f", number))
        if number == 5:
            lanes.event(Event("task_lost", 1.0, "Pool-1", 1, TaskInfo("m.f", 5, None, 1)))
    assert sum(bar.lost for bar in lanes.bars[1]) == 1


def test_what_is_left_out_of_the_page_is_said():
    run = Recording()
    for number in range(page.PICTURES + 2):
        run.tracks.append(Track(f"Pool-{number}", "Pool", run.event))
    for number in range(page.ROWS + 1):
        run.event(Event("worker_lost", 1.0, "Pool-1", exit=WorkerExit(number, number, None, "exit", ())))
    shown = Page(page.render(json.loads(json.dumps(document.describe(run)))))
    assert "2 more pools not shown" in shown.text
    assert "1 more row not shown" in shown.text
