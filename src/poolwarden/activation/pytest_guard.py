"""Guards the pools that tests make, and tells at the end what they have lost.

Runs in pytest's process and, under xdist, in each of its workers, which send
what they have seen to the controller when they end; one that crashes takes it
along. Pools in other processes that a test starts are guarded through
`POOLWARDEN`; their losses are seen there.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest

from .. import clock
from ..core.error_texts import task_name
from ..core.events import listeners
from ..core.running_tasks import tasks_now
from ..errors import ConfigurationError
from ..options import PARSERS, problem, read, spell
from ..policy import Policy
from ..records import Event
from .install import follow, followed
from .startup import VARIABLE

_NAME: Final = "poolwarden-guard"
#: Kinds of events that are told at the end.
_TOLD: Final = ("task_lost", "task_timeout", "task_retried", "worker_lost", "pool_broken", "init_failed")
#: Losses that are shown; the others are counted.
_SHOWN_MAX: Final = 50
#: Seconds between an event and the moment it is told; far more than it takes.
_LATE_MAX: Final = 5.0


def begin(config: pytest.Config, *, everywhere: bool) -> TestGuard:
    """Return the run's guard, made by the first call.

    Parameters
    ----------
    config : pytest.Config
        Gets a plugin more.
    everywhere : bool
        Whether all tests are guarded, or only those with the marker. A
        `POOLWARDEN` that is off, or cannot be read, does not ask for all.

    Raises
    ------
    pytest.UsageError
        ``poolwarden_timeout`` is not valid.
    """
    made: TestGuard | None = config.pluginmanager.get_plugin(_NAME)
    if made is not None:
        return made
    options: dict[str, Any] | None = None
    with contextlib.suppress(ValueError):  # it was told at start-up that the variable cannot be read
        options = read(os.environ.get(VARIABLE, "1" if config.getini("poolwarden") else ""))
    if options is None and not config.getoption("--poolwarden"):
        everywhere = False
    guard = TestGuard(config, Policy(**{**_settings(config), **(options or {})}), everywhere)
    config.pluginmanager.register(guard, _NAME)
    if everywhere:
        _watch_processes(config, guard.lines)
    return guard


def _watch_processes(config: pytest.Config, lines: list[str]) -> None:
    """Tell of the deaths of xdist's processes, in its controller; in such a process, leave its stack."""
    given = getattr(config, "workerinput", None)
    if given is None:
        if hasattr(config.hook, "pytest_testnodedown"):
            from .pytest_workers import CrashReports

            config.pluginmanager.register(CrashReports(lines), f"{_NAME}-workers")
    elif (memory := given.get("poolwarden_stack")) is not None:
        from .pytest_stacks import StackOfCrash

        config.pluginmanager.register(StackOfCrash(memory), f"{_NAME}-stack")


def _settings(config: pytest.Config) -> dict[str, Any]:
    text = config.getini("poolwarden_timeout")
    if not text:
        return {}
    timeout = text
    with contextlib.suppress(ValueError):
        timeout = float(text)
    if (why := problem("timeout", timeout)) is not None:
        raise pytest.UsageError(f"poolwarden_timeout: {why}")
    return {"timeout": timeout}


class TestGuard:
    """The plugin of one run.

    Attributes
    ----------
    lines : list of str
        What was lost so far, one line each; added to from the threads that tell events.
    """

    __test__ = False

    def __init__(self, config: pytest.Config, policy: Policy, everywhere: bool) -> None:
        self.lines: list[str] = []
        self._config = config
        self._policy = policy
        self._everywhere = everywhere
        # The test before and the one that runs, with the moment of its beginning.
        self._tests = ("", "before the first test", 0.0)
        self._run = contextlib.ExitStack()
        self._test = contextlib.ExitStack()
        listeners.append(self._note)
        self._run.callback(listeners.remove, self._note)
        if everywhere:
            self._run.enter_context(_guarded(policy))

    def _note(self, event: Event) -> None:
        """Write down a loss. An event is told a moment after its time, so maybe in the next test."""
        if event.kind in _TOLD:
            before, current, begun = self._tests
            # Tests set clocks: a time that is far off belongs to the test that runs.
            late = begun - _LATE_MAX < event.time < begun
            self.lines.append(f"{before if late else current}: {event.detail}{_how(event)}")

    def pytest_report_header(self) -> str | None:
        """Say what is guarded."""
        return f"poolwarden: on, {_described(self._policy)}" if self._everywhere else None

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Take a marked test's options back when it has ended; pools made in it keep them."""
        self._tests = (self._tests[1], item.nodeid, clock.wall())
        with contextlib.ExitStack() as self._test:
            yield

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Guard with a marked test's options before its fixtures make pools; earlier pools keep theirs."""
        markers = list(item.iter_markers("poolwarden"))
        if not markers:
            return
        why: object = None
        try:
            policy = _marked(followed() or self._policy, markers)
        except ConfigurationError as error:
            why = error
        if why is not None:
            pytest.fail(f"the marker poolwarden is not valid: {why}", pytrace=False)
        self._test.enter_context(_guarded(policy))

    @pytest.hookimpl(optionalhook=True, hookwrapper=True)
    def pytest_timeout_set_timer(self) -> Iterator[None]:
        """Write down what runs in pools when pytest-timeout ends a test by a signal.

        Its exception ends the pools that the test has made, before any hook of
        pytest's is called.
        """
        yield
        handler = signal.getsignal(signal.SIGALRM) if hasattr(signal, "SIGALRM") else None
        if callable(handler) and handler.__module__ == "pytest_timeout":

            def told(number: int, frame: Any) -> None:
                __tracebackhide__ = True
                for task, seconds in tasks_now():
                    self.lines.append(
                        f"{self._tests[1]}: {task_name(task)} had been running for {seconds:.1f} s "
                        f"when pytest-timeout ended the test"
                    )
                handler(number, frame)

            signal.signal(signal.SIGALRM, told)

    def pytest_sessionfinish(self) -> None:
        """Hand over to xdist's controller what this process of it has seen."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["poolwarden"] = self.lines

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell what was lost, and in which test."""
        if self.lines:
            terminalreporter.section("poolwarden: lost workers and tasks")
            for line in self.lines[:_SHOWN_MAX]:
                terminalreporter.line(line)
            if len(self.lines) > _SHOWN_MAX:
                terminalreporter.line(f"... and {len(self.lines) - _SHOWN_MAX} more")

    def pytest_unconfigure(self) -> None:
        """Leave the process as it was."""
        self._run.close()


def _marked(policy: Policy, markers: list[pytest.Mark]) -> Policy:
    """Return `policy` with the markers' options; the closest comes first, and goes before those around it."""
    options: dict[str, Any] = {}
    for marker in reversed(markers):
        if marker.args or set(marker.kwargs) - set(PARSERS):
            raise ConfigurationError(f"it takes {', '.join(f'{name}=' for name in PARSERS)} only.")
        options.update(marker.kwargs)
    return policy.merged(**options)


@contextlib.contextmanager
def _guarded(policy: Policy) -> Iterator[None]:
    """Guard pools that are made meanwhile, here and in programs started here; then do as before."""
    before, variable = followed(), os.environ.get(VARIABLE)
    os.environ[VARIABLE] = spell({name: getattr(policy, name) for name in PARSERS})
    follow(policy)
    try:
        yield
    finally:
        follow(before)
        if variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = variable


def _how(event: Event) -> str:
    """Return how the worker ended, in parentheses."""
    return "" if event.exit is None else f" ({event.exit.signal or f'exit code {event.exit.exitcode}'})"


def _described(policy: Policy) -> str:
    usual = Policy()
    changed = [name for name in PARSERS if getattr(policy, name) != getattr(usual, name)]
    return ", ".join(f"{name}={getattr(policy, name)}" for name in changed) or "no timeout"
