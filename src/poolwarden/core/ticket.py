"""One task, or one chunk of items: what is known of it from its submission to its answer."""

from __future__ import annotations

from typing import Any, Final

from ..policy import Policy
from ..records import TaskInfo
from ..worker import envelope
from . import error_texts
from .task_names import name_of, site_texts

#: Seconds for a worker to skip a task that was called off.
SKIP_BOUND: Final = 0.002


class Ticket:
    """One task, or one chunk of items, on its way.

    Attributes
    ----------
    number : int
        Names it everywhere: in messages, records and file names.
    key
        The host's own handle of the task.
    function : callable, str or tuple
        What the user submitted, or its name; a tuple has those of each item.
    policy : Policy
        The pool's at the time, with the task's own `limits`.
    policies : tuple of Policy
        Those of each item, where the items' functions differ.
    base : int or None
        Index of its (first) item in the caller's iterable.
    count : int
        How many items it holds.
    missing : int
        How many chunks of its call will never come.
    first : int
        The item that a worker has to begin with; earlier ones are finished.
    written : list or None
        What a thread of the user's has written of its message, while it does that itself.
    sendings : int
        How often its message was written.
    cancelled : bool
        True once the user asked for it to be stopped.
    begun : bool
        True once a worker without a record has told that it begins it.
    called_off : bool
        True once no worker will begin it any more.
    answered : bool
        True once its caller was answered, while its message is still on its way.
    verdict : BaseException or None
        What it ends in, once it was declared lost.
    kept : dict
        Pickled results of its items, by item, that were kept so far.
    holes : dict
        Errors by item, for the places of results (if `losses` is not ``"raise"``).
    tries : dict
        How often each item was run again.
    """

    # Defaults in the class, so that a plain task's ticket costs six stores.
    count = 1
    missing = 0
    data = b""
    first = 0
    site: tuple[Any, ...] | None = None
    written: list[int] | None = None
    _sent = False
    sendings = 0
    cancelled = False
    begun = False
    called_off = False
    answered = False
    verdict: BaseException | None = None
    holes: dict[int, BaseException] = {}  # noqa: RUF012 - replaced, never changed
    tries: dict[int, int] = {}  # noqa: RUF012 - replaced, never changed
    kept: dict[int, bytes] = {}  # noqa: RUF012 - replaced, never changed
    unfinished = b""
    policies: tuple[Policy, ...] = ()

    def __init__(
        self, number: int, key: Any, function: Any, policy: Policy, base: int | None, flags: int
    ) -> None:
        self.number = number
        self.key = key
        self.function = function
        self.policy = policy
        self.base = base
        self.flags = flags

    @property
    def sent(self) -> bool:
        """Whether its message may be on its way; False again once it is to be sent again."""
        return self._sent or (bool(self.written) and self.written != [0])

    @sent.setter
    def sent(self, sent: bool) -> None:
        self._sent = sent
        self.written = None

    @property
    def timeout(self) -> float | None:
        """Seconds it may run, or the shortest of its items; next to 0 for one that is to be stopped."""
        if self.cancelled:
            return self._to_stop()
        if not self.policies:
            return self.policy.timeout
        return min((each.timeout for each in self.policies if each.timeout is not None), default=None)

    def policy_of(self, item: int) -> Policy:
        """Return the policy for one item."""
        return self.policies[item] if self.policies else self.policy

    def timeout_of(self, item: int) -> float | None:
        """Return how many seconds one item may run; next to 0 if the task is to be stopped."""
        return self._to_stop() if self.cancelled else self.policy_of(item).timeout

    def _to_stop(self) -> float:
        return SKIP_BOUND if self.called_off else 0.0

    def info(self, item: int = 0) -> TaskInfo:
        """Return what errors and events say of the task, or of one item of it."""
        index = None if self.base is None else self.base + item
        site, through = site_texts(self.site)
        function = self.function[item] if type(self.function) is tuple else self.function
        return TaskInfo(name_of(function), index, site, self.tries.get(item, 0) + self.sent, through)

    def chunk_fate(self, item: int) -> str:
        """Return what becomes of its other items if it is lost in this one, as errors say it."""
        if not self.flags & envelope.CHUNK or self.policy.losses != "raise":
            return ""
        return error_texts.chunk_fate(self.base or 0, self.count, item)

    def call(self, pool: str) -> tuple[str, int, int, bytes, int]:
        """Return the arguments of `worker.envelope.run`; `pool` names the pool to its workers."""
        return pool, self.number, self.flags, self.data, self.first
