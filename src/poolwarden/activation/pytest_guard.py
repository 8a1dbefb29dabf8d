"""Guards the pools that tests make, and tells at the end what they have lost.

Runs in pytest's process and, under xdist, in each of its workers, which send
what they have seen to the controller. Pools in other processes that a test
starts are guarded through `POOLWARDEN`; their losses are seen there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from ..errors import ConfigurationError
from ..options import PARSERS, read, spell
from ..policy import Policy
from ..records import Event
from .install import install, uninstall
from .startup import VARIABLE

_NAME: Final = "poolwarden-guard"
#: Kinds of events that are told at the end.
_TOLD: Final = ("task_lost", "task_timeout", "task_retried", "worker_lost", "pool_broken", "init_failed")
#: Losses that are shown; the others are counted.
_SHOWN_MAX: Final = 50


def begin(config: pytest.Config, *, everywhere: bool) -> None:
    """Have tests guarded from now on; once.

    Parameters
    ----------
    config : pytest.Config
        Gets a plugin more.
    everywhere : bool
        Whether all tests are guarded, or only those with the marker.

    Raises
    ------
    pytest.UsageError
        ``poolwarden_timeout`` is not valid.
    """
    if config.pluginmanager.has_plugin(_NAME):
        return
    options: dict[str, Any] | None = None
    with contextlib.suppress(ValueError):  # it was told at start-up that the variable cannot be read
        options = read(os.environ.get(VARIABLE, ""))
    if options is None and not (config.getoption("--poolwarden") or config.getini("poolwarden")):
        everywhere = False
    options = options or {}
    try:
        if timeout := config.getini("poolwarden_timeout"):
            options["timeout"] = float(timeout)
        Policy(**options)
    except ValueError as error:
        raise pytest.UsageError(f"poolwarden_timeout: {error}") from None
    config.pluginmanager.register(TestGuard(config, options, everywhere), _NAME)


class TestGuard:
    """The plugin of one run."""

    __test__ = False

    def __init__(self, config: pytest.Config, options: dict[str, Any], everywhere: bool) -> None:
        self._config = config
        self._options = options
        self._everywhere = everywhere
        self._before = os.environ.get(VARIABLE)
        self._events: list[Event] = []
        # When each test was begun, in seconds since the epoch: an event is told a moment after its time.
        self._begun: list[tuple[float, str]] = []
        self._lines: list[str] = []
        if everywhere:
            self._install(options)

    def _install(self, options: dict[str, Any]) -> None:
        os.environ[VARIABLE] = spell(options)
        install(**options, on_event=self._note)

    def _uninstall(self) -> None:
        uninstall()
        if self._before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = self._before

    def _note(self, event: Event) -> None:
        if event.kind in _TOLD:
            self._events.append(event)

    def pytest_report_header(self) -> str | None:
        """Say what is guarded."""
        return f"poolwarden: on, {_described(self._options)}" if self._everywhere else None

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Guard a marked test with its options; pools made before it keep theirs."""
        self._begun.append((time.time(), item.nodeid))
        yield
        if item.get_closest_marker("poolwarden"):
            if self._everywhere:
                self._install(self._options)
            else:
                self._uninstall()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Install a marked test's options, before its fixtures make pools."""
        marker = item.get_closest_marker("poolwarden")
        if marker is None:
            return
        why: object = None
        if marker.args or set(marker.kwargs) - set(PARSERS):
            why = f"it takes {', '.join(f'{name}=' for name in PARSERS)} only"
        options = {**self._options, **marker.kwargs}
        try:
            if why is None:
                Policy(**options)
        except ConfigurationError as error:
            why = error
        if why is not None:
            pytest.fail(f"the marker poolwarden is not valid: {why}", pytrace=False)
        self._install(options)

    def pytest_sessionfinish(self) -> None:
        """Hand over to xdist's controller what this worker of it has seen."""
        self._lines += [self._line(event) for event in self._events]
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["poolwarden"] = self._lines

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of xdist has seen."""
        self._lines += getattr(node, "workeroutput", {}).get("poolwarden", [])

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell what was lost, and in which test."""
        if self._lines:
            terminalreporter.section("poolwarden: lost workers and tasks")
            for line in self._lines[:_SHOWN_MAX]:
                terminalreporter.line(line)
            if len(self._lines) > _SHOWN_MAX:
                terminalreporter.line(f"... and {len(self._lines) - _SHOWN_MAX} more")

    def pytest_unconfigure(self) -> None:
        """Leave the process as it was."""
        self._uninstall()

    def _line(self, event: Event) -> str:
        tests = [name for begun, name in self._begun if begun <= event.time]
        how = "" if event.exit is None else f" ({event.exit.signal or f'exit code {event.exit.exitcode}'})"
        return f"{tests[-1] if tests else 'before the first test'}: {event.detail}{how}"


def _described(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "no timeout"
