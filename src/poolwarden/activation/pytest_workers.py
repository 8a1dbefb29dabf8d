"""Tells how a process of pytest-xdist died: in the failure of its test, and at the end of the run.

xdist says "worker 'gw0' crashed while running …", and not why. Runs in xdist's
controller; costs a run nothing but 0.2 ms for each process that is started, and
what it knows it reads when one has died. Hooks never raise: the run is not to
fail because of us. Without xdist, and with ``-n0``, nobody calls them.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pytest

from .. import clock
from ..plaintext import shortened, visible

log = logging.getLogger("poolwarden")

#: Seconds for a process to end whose connection has ended.
_END_BOUND: Final = 2.0
#: What xdist says where a connection has ended without a word.
_LOST: Final = "Not properly terminated"

#: Stands for the test where none was running.
_NO_TEST: Final = "outside of any test"

_Hook = TypeVar("_Hook", bound=Callable[..., Any])


@dataclass
class _Started:
    """One process of xdist that was started."""

    at: float
    #: Peak memory of the controller then, in bytes: a new process begins with it.
    inherited: int
    stack_fd: int = -1


@dataclass(frozen=True)
class _Death:
    """What is known of one that has died: the first line, and those below it."""

    summary: str
    more: tuple[str, ...]
    at: float


def _safe(hook: _Hook) -> _Hook:
    @functools.wraps(hook)
    def safe(*given: Any, **named: Any) -> None:
        try:
            hook(*given, **named)
        except Exception:
            log.debug("poolwarden cannot tell how a process of xdist died", exc_info=True)

    return safe  # type: ignore[return-value]


class CrashReports:
    """The plugin of xdist's controller.

    Parameters
    ----------
    lines : list of str
        What is told at the end of the run; added to.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._started: dict[Any, _Started] = {}
        self._dead: dict[Any, _Death] = {}
        self._begun: dict[str, float] = {}
        self._oom: Any = None

    @pytest.hookimpl(optionalhook=True)
    @_safe
    def pytest_configure_node(self, node: Any) -> None:
        """Look at a process that was started, and give it a place for the stack of its crash."""
        from ..system.out_of_memory import OomWatch
        from .pytest_exit import own_peak
        from .pytest_stacks import INPUT, new_memory

        started = self._started[node] = _Started(clock.now(), own_peak())
        popen = _popen(node)
        if popen is None or not node.gateway.spec.popen:
            return
        self._oom = self._oom or OomWatch()
        self._oom.note(popen.pid)
        if (made := new_memory()) is not None:
            started.stack_fd, node.workerinput[INPUT] = made

    @_safe
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note when a test begins."""
        self._begun[nodeid] = clock.now()

    @_safe
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Forget that."""
        self._begun.pop(nodeid, None)

    @pytest.hookimpl(optionalhook=True)
    @_safe
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Find out how it ended; one that had ended its run has nothing to tell."""
        started = self._started.pop(node, None)
        if started is None:
            return
        try:
            if error is not None and not hasattr(node, "workeroutput"):
                death = self._dead[node] = self._death(node, started, str(error))
                self._lines.append(_line(_NO_TEST, node, death))
        finally:
            popen = _popen(node)
            if self._oom is not None and popen is not None:
                self._oom.forget(popen.pid)
            if started.stack_fd >= 0:
                os.close(started.stack_fd)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    @_safe
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:
        """Tell it in the failure of the test that was running.

        Before other plugins: the first that returns something is the last that is called.
        """
        node = report.node
        death = self._dead.pop(node, None)
        if death is None:
            return
        begun = self._begun.pop(crashitem, None)
        summary = death.summary
        if begun is not None:
            summary += f", {max(death.at - begun, 0):.1f} s after the test had begun"
        told = _Death(summary, death.more, death.at)
        self._lines[self._lines.index(_line(_NO_TEST, node, death))] = _line(crashitem, node, told)
        # The short summary has room for the beginning of the first line.
        report.longrepr = "\n".join([f"{summary}: {report.longrepr}", *death.more])

    def pytest_unconfigure(self) -> None:
        """Close what is left."""
        while self._started:
            _, started = self._started.popitem()
            if started.stack_fd >= 0:
                os.close(started.stack_fd)

    def _death(self, node: Any, started: _Started, error: str) -> _Death:
        from .pytest_exit import ending_of

        now = clock.now()
        popen, spec = _popen(node), node.gateway.spec
        if popen is None:
            return _Death("was lost, how it ended is not known: it is no child of this process", (), now)
        ending = ending_of(popen, _END_BOUND if error == _LOST else 0.0)
        if not spec.popen:
            client = "still runs" if ending is None else _described(ending.exitcode)
            return _Death(f"was lost on another machine, how it ended is not known: ssh {client}", (), now)
        if ending is None:
            why = visible(shortened(error.strip().rpartition("\n")[2]))
            return _Death(f"was given up by xdist ({why}), and process {popen.pid} still runs", (), now)
        from .pytest_postmortem import post_mortem

        return _Death(
            *post_mortem(
                ending,
                popen.pid,
                _pid(node),
                lived=now - started.at,
                inherited=started.inherited,
                oom=self._oom,
                stack_fd=started.stack_fd,
            ),
            now,
        )


def _popen(node: Any) -> Any:
    """Return execnet's `subprocess.Popen` of a process, None if it has none (``via=``, sockets)."""
    return getattr(getattr(node.gateway, "_io", None), "popen", None)


def _pid(node: Any) -> int | None:
    """Return the pid that the process itself has told execnet; its starter's is another."""
    return getattr(getattr(node.gateway, "_cache_rinfo", None), "pid", None)


def _described(exitcode: int | None) -> str:
    from ..core.exit_codes import describe

    return describe(exitcode)[1]


def _line(where: str, node: Any, death: _Death) -> str:
    more = "".join(f"\n    {line}" for text in death.more for line in text.splitlines())
    return f"{where}: worker {node.gateway.id} {death.summary}{more}"
