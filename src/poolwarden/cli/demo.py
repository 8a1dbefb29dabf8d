"""``poolwarden demo``: what a caller sees of five faults, bare and guarded.

Covers starting, watching and stopping the cases of `poolwarden.cli.demo_case`,
the judgement and the table. Every case runs in an interpreter of its own, the
leader of its own process group, so that whatever hangs can be killed whole.
Runs in the process that the user started, which never makes a pool itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from poolwarden.cli.demo_case import CASES, HOSTS, OTHERS, WORKERS, Case
from poolwarden.cli.terminal import Terminal
from poolwarden.version import __version__

START: Final = 20.0  # s for an interpreter and its pool to start
BARE: Final = 3.0  # s from the fault until a bare case counts as hung
GUARDED: Final = 10.0  # s from the fault until the interpreter and its workers have to be gone
WIDTHS: Final = (23, 25, 26, 5)  # characters, 79 in all

INTRODUCTION: Final = f"""\
poolwarden {__version__} on Python {platform.python_version()}, {platform.system()}
Each case is real: an interpreter of its own with a pool of {WORKERS} workers. First all
without the guard, stopped {BARE:.0f} s after the fault; then guarded, one by one."""

PROMISE: Final = f"""\
guarded cases did what was promised: the outcome shown, the right
results of {OTHERS} tasks sent right behind the fault and of {OTHERS} later ones, then the
pool closed and no process was left. The timeout was {CASES["endless"].options["timeout"]} s.
Without the guard, "broken" is a pool that does nothing more; "others" are tasks
sent right behind the fault that were lost with it."""


@dataclass
class Seen:
    """What was seen of one case; the fields of `demo_case.perform`, and:

    Attributes
    ----------
    started : bool
        Whether it came as far as the fault.
    stopped_after : float or None
        Seconds from the fault until the demo killed it; None: it ended by
        itself, and none of its processes holds its output open any more.
    status : int or None
        Exit status of its interpreter.
    complaints : str
        What it and its workers wrote to stderr.
    """

    started: bool = False
    outcome: str | None = None
    seconds: float = 0.0
    signal: str | None = None
    text: str = ""
    others: int = 0
    works: bool = False
    stopped_after: float | None = None
    status: int | None = None
    complaints: str = field(default="", repr=False)

    def keeps(self, case: Case) -> bool:
        """Return whether everything is as promised for `case` in a guarded pool."""
        return (
            self.outcome == case.promise
            and self.signal == case.signal
            and self.others == OTHERS
            and self.works
            and self.stopped_after is None
            and self.status == 0
        )

    def call(self) -> str:
        """Return how the call of the faulty task ended, for the table."""
        if not self.started:
            return "did not start"
        if self.outcome is not None and not self.works:
            lost = OTHERS - self.others
            return f"broken, {lost} others lost" if lost else "broken"
        if self.outcome is not None:
            return f"{self.outcome}, {self.seconds * 1000:.0f} ms"
        if self.stopped_after is not None:
            return f"hung, stopped after {self.stopped_after:.0f} s"
        return f"ended with status {self.status}"

    def pool(self) -> str:
        """Return how the pool did after that, for the table."""
        if self.works and self.stopped_after is None:
            return "works"
        return "hung" if self.stopped_after is not None else "broken"


def run(stream: TextIO) -> int:
    """Show the demo on `stream`; return 0 if every guarded case kept its promise.

    Returns
    -------
    int
        1 if a guarded case did not, 2 where the demo cannot run.
    """
    if os.name != "posix":
        print("poolwarden demo: needs process groups and signals, which this system lacks", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_show(Terminal(stream)))
    except BrokenPipeError:  # `poolwarden demo | head`
        # The rest of the stream's buffer would raise once more when the interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 1


async def _show(terminal: Terminal) -> int:
    terminal.write(INTRODUCTION)
    failed: list[tuple[str, Case, Seen]] = []
    example, shown = "", 0
    for name, host in HOSTS.items():
        terminal.write()
        if not host.is_installed():
            terminal.write(f"{terminal.style(name, 'bold')}: not installed, not shown")
            continue
        shown += 1
        terminal.write(f"{terminal.style(name, 'bold')}, start method {host.start_method()}")
        _row(terminal, ("", "without poolwarden", "with guard(pool)", "after"), ("dim",) * 4)
        bare = await asyncio.gather(*(observe(key, name, "bare", BARE) for key in CASES))
        for (key, case), without in zip(CASES.items(), bare, strict=True):
            guarded = await observe(key, name, "guarded", GUARDED)
            kept = guarded.keeps(case)
            colour = "green" if kept else "red"
            cells = (case.title, without.call(), guarded.call(), guarded.pool())
            _row(terminal, cells, ("bold", "red" if without.outcome is None else "yellow", colour, colour))
            if not kept:
                failed.append((name, case, guarded))
            example = example or guarded.text
    _conclude(terminal, len(CASES) * shown, failed, example)
    return 1 if failed else 0


def _row(terminal: Terminal, cells: tuple[str, ...], styles: tuple[str, ...]) -> None:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    terminal.write("".join(map(terminal.style, padded, styles)).rstrip())


def _conclude(terminal: Terminal, total: int, failed: list[tuple[str, Case, Seen]], example: str) -> None:
    """Write what the table cannot show: the promise, an error, and what failed."""
    terminal.write(f"\n{total - len(failed)} of {total} {PROMISE}")
    if example:
        terminal.write("\nThe error of the first case in full, as the caller of its task sees it:\n")
        for line in example.splitlines():
            terminal.write("    " + line)
    for host, case, seen in failed:
        terminal.write()
        terminal.write(terminal.style(f"Not as promised: {host}, {case.title}", "red"))
        terminal.write(f"    promised: {case.promise}, signal {case.signal}, {OTHERS} others right")
        terminal.write(f"    {seen}")
        for line in seen.complaints.splitlines()[-10:]:
            terminal.write("    " + line)


async def observe(key: str, host: str, mode: str, patience: float) -> Seen:
    """Return what was seen of one case, at the latest `patience` s after its fault.

    Parameters
    ----------
    key, host : str
        Of `demo_case.CASES` and `demo_case.HOSTS`.
    mode : {"bare", "guarded"}
    patience : float
        Seconds from the fault until all of its processes are killed.
    """
    seen = Seen()
    # A variable that guards every pool would guard the bare ones as well.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POOLWARDEN")}
    with tempfile.TemporaryFile() as complaints:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "poolwarden.cli.demo_case", key, host, mode),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=complaints,
            env=environment,
            start_new_session=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            seen.started = bool(await asyncio.wait_for(child.stdout.readline(), START))
            fault = time.monotonic()
            await asyncio.wait_for(_listen(child.stdout, seen), patience)
        except asyncio.TimeoutError:  # the built-in one only since 3.11
            seen.stopped_after = time.monotonic() - fault if seen.started else START
        finally:
            await asyncio.wait_for(_stop(child, child.stdin, child.stdout), START)
        seen.status = child.returncode
        complaints.seek(0)
        seen.complaints = complaints.read().decode(errors="replace")
    return seen


async def _listen(output: asyncio.StreamReader, seen: Seen) -> None:
    """Note what a case tells, until none of its processes can tell any more."""
    while line := await output.readline():
        news: dict[str, Any] = json.loads(line)
        for name, value in news.items():
            setattr(seen, name, value)


async def _stop(
    child: asyncio.subprocess.Process, feed: asyncio.StreamWriter, output: asyncio.StreamReader
) -> None:
    """Kill what is left of the group of `child`, reap the child, close its pipes."""
    # At the end of its output nobody of the group is left, and its number may belong to somebody else by now.
    if not output.at_eof():
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    # asyncio closes its ends of the pipes some time after the process is reaped; when the loop is closed
    # before that, each of them warns.
    feed.close()
    with suppress(BrokenPipeError, ConnectionResetError):
        await feed.wait_closed()
    await output.read()
    await child.wait()
