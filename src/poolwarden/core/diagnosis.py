"""How a worker ended: evidence in, `WorkerExit` out.

Covers the rules by which the cause is named. Does not gather anything: no
clocks, no processes, no files. Pure; the parent process, any thread.

The rules, first match wins:

=================  ========================================================
killed_by_guard    poolwarden sent the signal itself and says why
unknown            there is no exit code
oom                SIGKILL, and a counter of out-of-memory kills moved
signal             any other signal, and SIGKILL without such a counter
exit               the process ended itself, with status 0 too
=================  ========================================================

Weak evidence (the counter of the whole machine, text that starts with
"likely") makes the cause ``oom`` as well: a SIGKILL and an out-of-memory kill
in one moment are rarely two stories, and who acts on ``oom`` (fewer workers)
does no harm if they were. The word "likely" stays in the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..records import WorkerExit
from .exit_codes import describe

__all__ = ["Evidence", "diagnose"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of the end of one worker.

    Attributes
    ----------
    pid : int or None
        Process id.
    exitcode : int or None
        As `multiprocessing.Process.exitcode`.
    killed_by_guard : str or None
        Why poolwarden killed it; None if it did not.
    oom : str or None
        What `OomWatch.moved` returned.
    notes : tuple of str
        Anything else worth telling, one statement each.
    """

    pid: int | None
    exitcode: int | None
    killed_by_guard: str | None = None
    oom: str | None = None
    notes: tuple[str, ...] = ()


def diagnose(evidence: Evidence) -> WorkerExit:
    """Return how the worker ended, by the rules at the top of this module."""
    signal, _ = describe(evidence.exitcode)
    cause = _cause(evidence, signal)
    # The counter says nothing about a worker that did not die of SIGKILL; without an exit code it may.
    oom = evidence.oom if cause in ("oom", "unknown") else None
    said = tuple(text for text in (evidence.killed_by_guard, oom) if text)
    return WorkerExit(evidence.pid, evidence.exitcode, signal, cause, said + evidence.notes)


def _cause(evidence: Evidence, signal: str | None) -> str:
    if evidence.killed_by_guard is not None:
        return "killed_by_guard"
    if evidence.exitcode is None:
        return "unknown"
    if signal == "SIGKILL" and evidence.oom:
        return "oom"
    return "signal" if signal else "exit"
