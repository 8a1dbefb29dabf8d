"""The ``Process`` of `multiprocessing` and of its copies: ``join`` that tells how a process ended.

Runs in the parent. The process itself is not changed, so there is neither a
ledger nor a stack: only its exit is known.
"""

from __future__ import annotations

import functools
import signal
from typing import Any, ClassVar, cast

from ... import clock
from ...core import error_texts
from ...core.diagnosis import Evidence, diagnose
from ...core.task_names import name_of
from ...errors import ConfigurationError, PoolWardenError
from ...policy import Policy
from ...records import TaskInfo
from ...system.capabilities import require
from ...system.forking import no_telling
from ...system.out_of_memory import OomWatch
from ...system.patches import Seam, attributes_of
from ...system.process_handle import Handle
from ...system.stepping import in_one_step
from ...system.watchdog import watchdog


class ProcessAdapter:
    """Guards one process: kills it at its timeout, explains its end in ``join``.

    A subclass for each host.

    Attributes
    ----------
    module, util : module
        The host's ``process`` and ``util``.
    """

    name: ClassVar[str]
    module: ClassVar[Any]
    util: ClassVar[Any]

    def __init__(self, policy: Policy, process: Any) -> None:
        require()
        watchdog().check()
        self.policy = policy
        # Taken now: start() deletes it.
        target = getattr(process, "_target", None)
        self._function = name_of(type(process).run if target is None else target)
        self.timed_out = False
        self._handle: Handle | None = None
        self._error: PoolWardenError | None = None
        self._oom = OomWatch()

    @classmethod
    def guards(cls, process: object) -> bool:
        """Return whether `process` is of this host."""
        return isinstance(process, cls.module.BaseProcess)

    @classmethod
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return the private names that are used."""
        return attributes_of(cls.module.BaseProcess, ("_popen", "_target"))

    @classmethod
    def guard_object(cls, process: Any, policy: Policy) -> None:
        """Guard `process`, started or not."""
        in_one_step(lambda: cls._guard(process, policy))

    @classmethod
    def _guard(cls, process: Any, policy: Policy) -> None:
        if policy.retries or policy.grace or policy.startup_timeout is not None:
            raise ConfigurationError("a Process takes only timeout=; the other options are for pools")
        if not hasattr(process, "_poolwarden"):
            process._poolwarden = cls(policy, process)
            process.__class__ = _guarded_class(cast("Any", type(process)))
        process._poolwarden.policy = policy
        if process.pid is not None:
            process._poolwarden.watch(process)

    @classmethod
    def unguard_object(cls, process: Any) -> None:
        """Give `process` its class back."""
        in_one_step(lambda: cls._unguard(process))

    @staticmethod
    def _unguard(process: Any) -> None:
        if hasattr(process, "_poolwarden"):
            process._poolwarden.forget()
            process.__class__ = type(process).__mro__[1]
            del process._poolwarden

    def watch(self, process: Any) -> None:
        """Begin to count the time: `process` has just been started, or is guarded late."""
        # Once: a second handle of the same process would be left open.
        self._handle = self._handle or Handle(process)
        if self.policy.timeout is not None:
            # The deadline first: the end, which may be seen at once, drops both.
            watchdog().schedule(self, clock.now() + self.policy.timeout)
            watchdog().watch(self._handle.fd, self, None)

    def on_deadline(self) -> None:
        """Kill the process: it has had its time. Watchdog's thread."""
        if self._handle is not None and not self._handle.has_ended():
            self.timed_out = True
            self._handle.send(signal.SIGKILL)

    def on_exits(self, tokens: list[Any]) -> None:
        """Forget the deadline: the process has ended. Watchdog's thread."""
        watchdog().forget(self)

    def on_failure(self, error: BaseException) -> None:
        """Go on without a timeout."""

    def error_for(self, process: Any) -> PoolWardenError | None:
        """Return what `process` ended with, None for success or while it runs."""
        code = process.exitcode
        if code is None or code == 0:
            return None
        if self._error is None:
            task = TaskInfo(self._function, None, None, 1)
            killed = "poolwarden killed it: it outran its timeout" if self.timed_out else None
            oom = self._oom.moved(process.pid) if code == -signal.SIGKILL else None
            exit = diagnose(Evidence(process.pid, code, killed, oom))
            if self.timed_out:
                limit = self.policy.timeout or 0.0
                self._error = error_texts.task_timeout(task, exit, limit, None, soft=False)
            else:
                self._error = error_texts.worker_lost(task, exit)
        return self._error

    def forget(self) -> None:
        """Stop watching."""
        watchdog().forget(self)
        if self._handle is not None:
            self._handle.close()
            self._handle = None


@functools.cache
def _guarded_class(process_class: Any) -> Any:
    """Return a subclass of a process class that watches it and explains its end."""

    def start(self: Any) -> None:
        # The new process must meet neither this class nor the guard: spawn
        # pickles the object, fork copies it.
        guard = self.__dict__.pop("_poolwarden")
        self.__class__ = process_class
        try:
            with no_telling():
                process_class.start(self)
        finally:
            self.__class__ = guarded
            self._poolwarden = guard
        guard.watch(self)

    def join(self: Any, timeout: float | None = None) -> None:
        process_class.join(self, timeout)
        error = self._poolwarden.error_for(self)
        if self.exitcode is not None:
            self._poolwarden.forget()
        # multiprocessing joins what is left at exit: nobody is there to be told.
        if error is not None and not self._poolwarden.util.is_exiting():
            raise error

    methods = {"start": start, "join": join, "__module__": process_class.__module__}
    guarded = type(process_class.__name__, (process_class,), methods)
    return guarded
