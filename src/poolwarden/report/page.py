"""The report as one page: no script, no network, nothing but itself.

Everything that comes from the program goes through `text.escape`. What a page
can show is less than what the JSON file holds; where it leaves something out,
it says how much.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final

from .text import code, duration, escape, plural
from .timeline import CELLS, Picture

#: Losses that are shown one by one, pools that get a picture, and lanes in all.
DETAILS: Final = 200
PICTURES: Final = 20
LANES: Final = 200
#: Rows of a table.
ROWS: Final = 100

#: Should anything get past `escape`: nothing is fetched, and no script runs.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

_KINDS: Final = {
    "task_lost": "{task} lost with {its} worker",
    "task_timeout": "{task} stopped at {its} timeout",
    "task_retried": "lost {task} run again",
    "task_cancelled": "{task} cancelled",
    "worker_lost": "idle {worker} lost",
    "worker_killed": "{worker} killed by the guard",
    "init_failed": "{worker} not ready",
    "pool_broken": "{pool} given up",
    "pool_repaired": "{repair}",
}
_WORDS: Final = ("task", "worker", "pool", "repair")
_ONE: Final = {
    "task_lost": "task lost",
    "task_timeout": "timeout",
    "task_retried": "lost, run again",
    "task_cancelled": "cancelled",
    "worker_lost": "idle worker lost",
    "worker_killed": "worker killed",
    "init_failed": "not ready",
    "pool_broken": "pool given up",
}


def render(report: dict[str, Any]) -> str:
    """Return the page for a report as in the JSON file."""
    return "\n".join(_page(report)) + "\n"


def _page(report: dict[str, Any]) -> Iterator[str]:
    title = f"Pools of {report['program'] or 'a program'}"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>\n<style>"
    yield files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    yield "</style>\n</head>\n<body>\n<main>"
    yield f"<h1>{escape(title)}</h1>"
    yield from _summary(report)
    yield from _timelines(report)
    yield from _losses(report)
    yield from _repairs(report)
    yield from _facts(report)
    yield "</main>\n</body>\n</html>"


def _summary(report: dict[str, Any]) -> Iterator[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report["started"]))
    length = duration(report["ended"] - report["started"])
    pools, workers = len(report["pools"]), sum(len(pool["workers"]) for pool in report["pools"])
    counted = plural(pools + report["left_out"]["pools"], "pool")
    counted += f", {plural(workers + report['left_out']['workers'], 'worker')}"
    yield f'<p class="lead">Began at {when} and took {length}: {counted}.</p>'
    if not report["counts"]:
        yield '<p class="good">Nothing was lost, retried or killed.</p>'
        return
    yield '<ul class="counts">'
    for kind, words in _KINDS.items():
        if number := report["counts"].get(kind):
            forms = {word: plural(number, word).partition(" ")[2] for word in _WORDS}
            text = words.format(its="its" if number == 1 else "their", **forms)
            yield f'<li class="{kind}"><b>{number:,}</b> {text}</li>'
    yield "</ul>"
    left = {name: number for name, number in report["left_out"].items() if number}
    if left:
        words = ", ".join(f"{number:,} {name}" for name, number in left.items())
        yield f'<p class="note">Counted, but not kept for want of room: {words}.</p>'


def _timelines(report: dict[str, Any]) -> Iterator[str]:
    if not report["pools"]:
        return
    own: dict[str, list[dict[str, Any]]] = {}
    for event in report["events"]:
        own.setdefault(event["pool"], []).append(event)
    # Pools in which something happened come first.
    pools = sorted(report["pools"], key=lambda pool: (pool["name"] not in own, pool["opened"]))
    pictures = [Picture(pool, own.get(pool["name"], []), report["ended"]) for pool in pools[:PICTURES]]
    lanes = max(sum(len(picture.lanes) for picture in pictures), 1)
    room = LANES
    yield '<section aria-labelledby="timeline"><h2 id="timeline">Timeline</h2>'
    for pool, picture in zip(pools, pictures, strict=False):
        calls = "" if pool["calls"] is None else f", {plural(pool['calls'], 'call')} sent"
        yield f"<h3>{escape(pool['name'])}</h3>"
        yield f'<p class="note">{escape(pool["host"])}, {plural(len(pool["workers"]), "worker")}{calls}</p>'
        yield from picture.svg(CELLS // min(lanes, LANES), max(room, 1))
        yield from picture.legend()
        room -= len(picture.lanes)
    if len(pools) > PICTURES:
        yield f'<p class="note">{plural(len(pools) - PICTURES, "more pool")} not shown.</p>'
    yield (
        '<p class="note">Workers are looked at up to 50 times a second: tasks that are shorter than that '
        "are seen now and then only. A worker that replaces another one takes its lane.</p></section>"
    )


def _losses(report: dict[str, Any]) -> Iterator[str]:
    losses = [event for event in report["events"] if event["kind"] in _ONE]
    if not losses:
        return
    yield '<section aria-labelledby="losses"><h2 id="losses">Losses</h2>'
    groups = Counter((_ONE[event["kind"]], _function(event), _how(event)) for event in losses)
    if len(losses) > 1:
        yield '<div class="scroll" tabindex="0" role="group" aria-label="Losses by kind"><table><thead><tr>'
        yield '<th scope="col">How many</th><th scope="col">What</th><th scope="col">Function</th>'
        yield '<th scope="col">How it ended</th></tr></thead><tbody>'
        for (kind, function, how), number in groups.most_common(ROWS):
            name = code(function) if function else "-"
            yield f'<tr><td class="number">{number:,}</td><td>{kind}</td>'
            yield f"<td>{name}</td><td>{escape(how)}</td></tr>"
        yield "</tbody></table></div>"
        if len(groups) > ROWS:
            yield f'<p class="note">{plural(len(groups) - ROWS, "more row")} not shown.</p>'
    for event in losses[:DETAILS]:
        yield from _loss(event, report["started"])
    left = len(losses) - DETAILS
    if left > 0:
        yield f'<p class="note">{left:,} later ones not shown one by one; a .json report has them.</p>'
    yield "</section>"


def _loss(event: dict[str, Any], started: float) -> Iterator[str]:
    task, exit = event["task"], event["exit"]
    yield f'<article class="{event["kind"]}"><h3>{_ONE[event["kind"]]}'
    yield f" {code(task['function'])}" if task else ""
    yield f"<small>after {duration(max(event['time'] - started, 0.0))}, {escape(event['pool'])}</small></h3>"
    yield f"<p>{escape(event['detail'])}</p>"
    entries: dict[str, str] = {}
    if task:
        if task["index"] is not None:
            entries["Item"] = escape(task["index"])
        if task["site"]:
            entries["Submitted at"] = code(task["site"])
        entries["Attempts"] = escape(task["attempts"])
    if exit:
        entries["Worker"] = escape(exit["pid"])
        entries["Ended"] = escape(_how(event))
        if exit["evidence"]:
            entries["Evidence"] = "<br>".join(map(escape, exit["evidence"]))
    yield "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in entries.items()) + "</dl>"
    if event["stack"]:
        yield "<details><summary>Python stack of the worker</summary>"
        yield f'<pre tabindex="0">{escape(event["stack"].strip())}</pre></details>'
    yield "</article>"


def _function(event: dict[str, Any]) -> str:
    return event["task"]["function"] if event["task"] else ""


def _how(event: dict[str, Any]) -> str:
    """Return how a worker ended, in a few words."""
    exit = event["exit"]
    if exit is None:
        return "the worker lives" if event["task"] else "-"
    words = {"oom": "out of memory", "killed_by_guard": "killed by poolwarden"}
    if exit["cause"] == "oom" and any(text.startswith("likely") for text in exit["evidence"]):
        words["oom"] = "likely out of memory"
    end = exit["signal"] or ("unknown" if exit["exitcode"] is None else f"exit code {exit['exitcode']}")
    return f"{end}, {words[exit['cause']]}" if exit["cause"] in words else str(end)


def _repairs(report: dict[str, Any]) -> Iterator[str]:
    others = [event for event in report["events"] if event["kind"] not in _ONE]
    if not others:
        return
    yield f"<section><details><summary>{plural(len(others), 'repair')}</summary>"
    yield '<div class="scroll" tabindex="0" role="group" aria-label="Repairs"><table><tbody>'
    for event in others[:ROWS]:
        after = duration(max(event["time"] - report["started"], 0.0))
        yield f'<tr><td class="number">after {after}</td><td>{escape(event["pool"])}</td>'
        yield f"<td>{escape(event['detail'])}</td></tr>"
    yield "</tbody></table></div>"
    if len(others) > ROWS:
        yield f'<p class="note">{len(others) - ROWS:,} more not shown.</p>'
    yield "</details></section>"


def _facts(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"<footer>poolwarden {escape(report['poolwarden'])}, Python {escape(report['python'])}, "
        f"{escape(report['platform'])}, process {report['pid']}. Arguments and results of tasks are not in "
        "this file.</footer>"
    )
