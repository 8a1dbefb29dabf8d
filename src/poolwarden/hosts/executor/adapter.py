"""What executors with a manager thread have in common.

`concurrent.futures.ProcessPoolExecutor` and loky's are of one design: a
manager thread moves work items into a call queue, reads a result queue, and
takes the end of any worker for the end of the executor. Here it is kept from
seeing such ends: the watchdog does, and tells the manager thread what to do
through the result queue, so that one thread answers everything.

Seams, all on the instance, so that they reach an executor that is in use:
``_work_ids.put`` sees every task; ``_processes`` every start of a worker;
``wait_result_broken_or_wakeup`` of the manager thread is replaced; the
initializer is exchanged for `worker.member.birth`.

The adapter makes the parts, each of which gets what it uses and knows nothing
of those that are made after it, and puts them on the executor. What the core
asks of them is in `host_port`.
"""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

from ...core.belonging import is_made_here
from ...core.guard import Guard
from ...core.left_bare import warn_left_bare
from ...errors import ConfigurationError
from ...policy import Policy
from ...system.capabilities import require
from ...system.interruption import protect
from ...system.patches import Seam, attributes_of, check_attributes
from ...system.stepping import in_one_step
from ...worker.member import birth
from ..base import NOT_OURS
from .call_queue import CALL_QUEUE, RESULT_QUEUE, CallQueue
from .construction import Construction
from .earlier_calls import EarlierCalls
from .forked_child import OwnQueues, leave_to_host, renew_copied
from .host_errors import ExecutorErrors
from .host_port import ExecutorHost
from .manager_messages import ManagerMessages
from .manager_thread import METHODS, ManagerThread
from .recovery import RecoveredCalls
from .shutdown import ExecutorShutdown
from .stand_ins import Context, Shutdown, ThreadStart
from .submissions import Submissions, no_submission
from .unguarding import Unguarding
from .worker_starts import WorkerStarts


class ExecutorAdapter(ExecutorHost):
    """Guards one executor; a host adds its names and what is different.

    Attributes
    ----------
    module : module
        The host's, where its classes are.
    """

    module: ClassVar[Any]
    construction: ClassVar[Construction]
    errors_class: ClassVar[type[ExecutorErrors]] = ExecutorErrors
    submissions_class: ClassVar[type[Submissions]] = Submissions
    workers_class: ClassVar[type[WorkerStarts]]
    attributes: ClassVar[tuple[str, ...]] = (
        "_processes",
        "_work_ids",
        "_pending_work_items",
        "_call_queue",
        "_result_queue",
        "_initializer",
        "_initargs",
        "_executor_manager_thread",
        "_executor_manager_thread_wakeup",
        "_start_executor_manager_thread",
    )

    def __init__(self, policy: Policy, executor: Any) -> None:
        super().__init__(getattr(executor._call_queue, "_reducers", None))
        results = self._result_queue = executor._result_queue
        self.executor: weakref.ref[Any] = weakref.ref(executor)
        self.errors = self.errors_class(self.module)
        self.queue = CallQueue(executor)
        self._original_initializer = executor._initializer, executor._initargs
        self._original_context = getattr(executor, self.workers_class.context_name)
        self._overridden: set[str] = set()
        reader, writer = results._reader, results._writer
        self.guard = guard = Guard(self, policy, self.title(), executor._max_workers)
        if executor._processes and (reducers := getattr(results, "_reducers", None)):
            # For those workers; later ones find them at the queue.
            guard.memory.reducers = self.dumper.dumps(reducers)
        self.submissions = self.submissions_class(executor, guard, self.errors, self.module._process_chunk)
        # This opens a descriptor, so it comes after all that may fail.
        self.messages = ManagerMessages(
            writer, on_outcome=self.submissions.finish, on_failure=guard.on_failure
        )
        self._make_parts(reader, executor._max_workers)

    def _make_parts(self, results: Any, max_workers: int) -> None:
        """Make the parts that only know others; each of them knows those before it."""
        guard, queue, messages, submissions = self.guard, self.queue, self.messages, self.submissions
        self.earlier = EarlierCalls(
            guard,
            submissions,
            queue,
            messages,
            make_call=self.module._CallItem,
            as_host_error=self.errors.as_host_error,
        )
        self.recovered = RecoveredCalls(queue, self.earlier, messages)
        self.manager = ManagerThread(
            results, messages, queue.gate, guard, self.errors, self.earlier.unanswered
        )
        self.workers = self.workers_class(guard, self.manager, messages, self.executor, max_workers)
        self.unguarding = Unguarding(
            guard,
            messages,
            self.manager,
            self.workers,
            submissions,
            give_back=self._give_thread_back,
            let_go=self._let_go,
        )
        self.shutdown = ExecutorShutdown(
            guard, queue, self.manager, self.workers, self.errors, self.executor, self.unguarding.finish
        )

    # Guarding.

    @classmethod
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return the private names that are used."""
        executor, thread = cls.module.ProcessPoolExecutor, cls.module._ExecutorManagerThread
        return (
            *attributes_of(executor, cls.attributes),
            *attributes_of(cls.module._SafeQueue, CALL_QUEUE),
            *(Seam(thread, name) for name in METHODS),
        )

    @classmethod
    def guards(cls, obj: object) -> bool:
        """Return whether `obj` is an executor of this host."""
        return isinstance(obj, cls.module.ProcessPoolExecutor)

    @classmethod
    def guard_object(cls, executor: Any, policy: Policy) -> None:
        """Guard `executor`, or change the policy of one that is guarded."""
        # First: where the standard library is patched its parts are none of those that are known.
        require()
        in_one_step(lambda: cls._guard(executor, policy))

    @classmethod
    def _guard(cls, executor: Any, policy: Policy) -> None:
        adapter = getattr(executor, "_poolwarden", None)
        if adapter is not None:
            adapter.guard.policy = policy
            return
        adapter = getattr(executor._executor_manager_thread, "_poolwarden", None)
        if adapter is not None and adapter._guard_again(executor, policy):
            return
        check_attributes(executor, cls.attributes, cls.name)
        renew_copied(executor)
        if not cls._is_made_here(executor):
            raise ConfigurationError(NOT_OURS)
        try:
            if executor._result_queue is not None:
                check_attributes(executor._call_queue, CALL_QUEUE, cls.name)
                check_attributes(executor._result_queue, RESULT_QUEUE, cls.name)
                cls(policy, executor).attach(executor)
                return
        except Exception:
            # Its end takes one part away after the other, in another thread.
            if not cls.has_ended(executor):
                raise
        raise ConfigurationError("the executor has been shut down; there is nothing left to guard")

    @classmethod
    def _is_made_here(cls, executor: Any) -> bool:
        """Return whether `executor` has its workers and its thread in this process, as far as it has any."""
        thread, workers = executor._executor_manager_thread, dict(executor._processes or {}).values()
        is_copied = thread is not None and not thread.is_alive() and thread.ident is not None
        return all(map(is_made_here, workers)) and not (is_copied and not cls.has_ended(executor))

    @staticmethod
    def has_ended(executor: Any) -> bool:
        """Return whether `executor` was shut down."""
        return bool(executor._shutdown_thread)

    @classmethod
    def guard_new(cls, executor: Any, policy: Policy) -> None:
        """Guard an executor that has just been made; one that cannot be is left bare, with a warning."""
        try:
            cls.guard_object(executor, policy)
        except Exception as error:
            warn_left_bare(f"this {cls.name} is", error)

    @classmethod
    def unguard_object(cls, executor: Any) -> None:
        """Leave `executor` to itself; tasks in flight stay guarded until they are answered."""

        def unguard() -> None:
            adapter = getattr(executor, "_poolwarden", None)
            if adapter is not None:
                with no_submission(executor, adapter.name):
                    adapter._unhook(executor)
                adapter.guard.retire()

        in_one_step(unguard)

    @classmethod
    def install(cls, policy: Policy) -> None:
        """Guard every executor of this host that is made from now on."""
        cls.construction.install(policy)

    @classmethod
    def uninstall(cls) -> None:
        """Take `install` back."""
        cls.construction.uninstall()

    def attach(self, executor: Any) -> None:
        """Hook `executor` up; its private names have been checked. If that fails, it is as it was."""
        try:
            with no_submission(executor, self.name), self.guard.births:
                self._attach(executor)
        except BaseException:
            if getattr(executor, "_poolwarden", None) is self:
                self._unhook(executor)
            self.unguarding.withdraw()
            raise

    def _attach(self, executor: Any) -> None:
        self.earlier.note(self.submissions.pending)
        thread, wakeup = executor._executor_manager_thread, executor._executor_manager_thread_wakeup
        self.workers.take(executor)
        if thread is not None:
            self.take_thread(thread)
        self._hook(executor)
        # Every part is there: the watchdog may ask for any of them, for a worker that has ended already.
        for process in list(self.workers.table.values()):
            self.guard.born(process, older=True)
        self.unguarding.expect_end(executor)
        if thread is not None:
            wakeup.wakeup()
            self.messages.call_soon(self.earlier.register_workers)
        # Last, as nothing can fail any more.
        self.submissions.adopt()

    def _guard_again(self, executor: Any, policy: Policy) -> bool:
        """Guard an executor again that still has tasks of ours; False if they are all answered by now."""
        with no_submission(executor, self.name):
            if self.unguarding.is_finished:
                return False
            self.guard.stay(policy)
            self.earlier.note(self.submissions.pending)
            self.submissions.adopt()
            self._hook(executor)
        return True

    # On the executor, under its lock.

    def _hook(self, executor: Any) -> None:
        """Put on the executor what stands in for its own."""
        arguments = self.birth_arguments()
        executor._initializer, executor._initargs = birth, arguments
        name = self.workers.context_name
        context = getattr(executor, name)
        if not isinstance(context, Context):
            setattr(executor, name, Context(context, self.guard.memory))
        # The manager thread releases it, submitting threads take it; under some start methods.
        protect(getattr(getattr(executor, "_idle_worker_semaphore", None), "_cond", None))
        self.submissions.hook()
        self.workers.lock(executor)
        for name, stand_in in self.overrides(executor).items():
            setattr(executor, name, stand_in)
            self._overridden.add(name)
        self.workers.prepare(executor, arguments)

    def _unhook(self, executor: Any) -> None:
        """Take back what `_hook` has put there."""
        executor._initializer, executor._initargs = self._original_initializer
        setattr(executor, self.workers.context_name, self._original_context)
        self.submissions.unhook()
        self.workers.unlock(executor)
        for name in self._overridden:
            vars(executor).pop(name, None)

    def overrides(self, executor: Any) -> dict[str, Any]:
        """Return what takes the place of the executor's attributes, by name; ours comes last."""
        return {
            "_start_executor_manager_thread": ThreadStart(
                executor, self.module, self.take_thread, self.note_wakeup
            ),
            "shutdown": Shutdown(executor, self.unguarding.finish_unused),
            "_poolwarden": self,
        }

    def birth_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of `worker.member.birth`."""
        return (self.guard.pool_name, *self._original_initializer, self._result_queue)

    def note_wakeup(self, thread: Any, executor: Any) -> None:
        """Have the exit of the interpreter wake the manager thread, as the host does behind its start."""
        self.module._threads_wakeups.setdefault(thread, executor._executor_manager_thread_wakeup)

    # On the manager thread.

    def take_thread(self, thread: Any) -> None:
        """Hook the manager thread up, before it is started if possible."""
        self.workers.lock(thread)
        thread.processes = self.workers.table
        overrides = {
            "flag_executor_shutting_down": self.flag_shutting_down,
            "join_executor_internals": self.shutdown.join_internals,
            "terminate_broken": self.shutdown.terminate_broken,
            "_poolwarden": self,
        }
        self.manager.take(thread, overrides)
        self.submissions.take_thread(thread)
        self.queue.hook()

    def flag_shutting_down(self) -> None:
        """Stand in for ``flag_executor_shutting_down``."""
        thread = self.manager.thread
        type(thread).flag_executor_shutting_down(thread)
        self.submissions.settle_after_cancel(self.earlier)

    def _give_thread_back(self) -> None:
        """Leave the manager thread to the executor."""
        self.workers.unlock(self.manager.thread)
        self.manager.give_back()
        self.submissions.give_back()

    # The end.

    def _let_go(self) -> None:
        """Drop what would keep pipes open as long as somebody keeps the executor, which has ended."""
        executor: Any = self.executor()
        if getattr(executor, "_poolwarden", None) is self:
            executor._initializer, executor._initargs = self._original_initializer
            setattr(executor, self.workers.context_name, self._original_context)
        self._result_queue = None
        self.manager.let_go()
        self.submissions.drop_thread()
        self.queue.let_go()
        self.workers.drop()

    def disown(self) -> None:
        self.unguarding.disown()
        executor = self.executor()
        if executor is not None:
            if getattr(executor, "_poolwarden", None) is self:
                self._unhook(executor)
            leave_to_host(executor)
            if executor._executor_manager_thread is None and not self.has_ended(executor):
                OwnQueues(executor, self.renew_queues)
        self.messages.disown()

    @staticmethod
    def renew_queues(executor: Any) -> None:
        """Give an executor that has none of its threads yet pipes of its own, in a forked process."""
        raise NotImplementedError
