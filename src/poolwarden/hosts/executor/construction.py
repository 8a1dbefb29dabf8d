"""Guarding every executor of one class that is made from now on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...policy import Policy
from ...system.patches import Patch


class Construction:
    """The constructor of a host's executors, patched while it is asked for.

    Parameters
    ----------
    executor_class : type
        The host's.
    guard_new : callable
        Guards an executor that has just been made, with a policy.
    """

    def __init__(self, executor_class: type, guard_new: Callable[[Any, Policy], None]) -> None:
        self._guard_new = guard_new
        self._policy: Policy | None = None
        self._patch = Patch(executor_class, "__init__", self._on_construction)

    def install(self, policy: Policy) -> None:
        """Guard what is made from now on, or do it with another policy."""
        if self._policy is None:
            self._patch.take()
        self._policy = policy

    def uninstall(self) -> None:
        """Take `install` back."""
        self._policy = None
        self._patch.drop()

    def _on_construction(
        self, wrapped: Any, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        wrapped(*args, **kwargs)
        policy = self._policy
        if policy is not None:
            self._guard_new(executor, policy)
