"""Every wait of the tests: bounded, and saying what it waited for.

Runs in the test process; imports the standard library only, so that programs
started by tests can use it as well.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds any single answer may take. Far more than needed: it only decides when a hang is called one.
DEADLINE = 20.0

#: Seconds a pool may take to end, whatever happened to it; part of the contract.
ENDING = 5.0


def eventually(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Return the first true value of `condition`; fail when there is none in time."""
    limit = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > limit:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)
    return value


def within(seconds: float, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``call(*args, **kwargs)``, run in a thread; fail with its stack when it does not end."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = call(*args, **kwargs)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True, name=f"test: {getattr(call, '__name__', call)}")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise AssertionError(f"{call!r} did not end within {seconds:g} s; it stood at\n{stack_of(thread)}")
    if "error" in outcome:
        error = outcome.pop("error")
        try:
            raise error
        finally:
            del error
    return outcome["value"]


def stack_of(thread: threading.Thread) -> str:
    """Return where a thread of this process is, as a traceback prints it."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else "(ended)"


def lines_of(path: Path | str) -> list[str]:
    """Return the complete lines of a file that other processes append to."""
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


def state_of(pid: int) -> str | None:
    """Return the state letter of a process (R, S, T, Z, ...); None when it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; one that only waits to be reaped has."""
    return state_of(pid) in (None, "Z", "X")


def all_gone(pids: list[int], seconds: float = ENDING) -> None:
    """Return when none of the processes lives any more; fail, naming those that do."""
    try:
        eventually(lambda: all(map(is_gone, pids)), "every process gone", seconds)
    except AssertionError:
        left = {pid: state_of(pid) for pid in pids if not is_gone(pid)}
        raise AssertionError(f"still there after {seconds:g} s: {left} (of {pids})") from None


def all_asleep(pids: Callable[[], list[int]], count: int) -> list[int]:
    """Return the pids once there are `count` of them and each process sleeps, as an idle worker does."""

    def asleep() -> list[int]:
        found = pids()
        return found if len(found) == count and all(state_of(pid) == "S" for pid in found) else []

    found: list[int] = eventually(asleep, f"{count} idle workers")
    return found
