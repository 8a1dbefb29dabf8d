"""Class-level patches of hosts: applied once, undone exactly.

Runs in the parent, while a pool is guarded or ``install`` is in force. wrapt
does the wrapping (a static method stays one, signatures and names stay); it is
imported only here, because it costs tens of milliseconds.
"""

from __future__ import annotations

import dis
import functools
import inspect
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..errors import ConfigurationError

_MISSING = object()
#: Of all patches. Re-entrant: a collection comes at any moment, and ends pools in the thread that it meets.
_lock = threading.RLock()


@dataclass(frozen=True)
class Seam:
    """A private name of a host, and the parameters it has to have.

    Attributes
    ----------
    owner : type
        The class that holds it.
    name : str
        The attribute.
    parameters : tuple of str
        Names that must be among its parameters; empty when it only has to exist.
    stored : bool
        True for an attribute of its objects: one that a method of it stores
        will do.
    """

    owner: type
    name: str
    parameters: tuple[str, ...] = ()
    stored: bool = False

    def problem(self) -> str | None:
        """Return what is wrong with it, or None."""
        where = f"{self.owner.__module__}.{self.owner.__qualname__}.{self.name}"
        found: Any = getattr(self.owner, self.name, _MISSING)
        if found is _MISSING:
            if self.stored and self.name in _stored(self.owner):
                return None
            return f"{where} does not exist"
        if self.parameters:
            have = inspect.signature(found).parameters
            missing = [name for name in self.parameters if name not in have]
            if missing:
                return f"{where} has no parameter {', '.join(missing)}"
        return None


def attributes_of(owner: type, names: tuple[str, ...]) -> tuple[Seam, ...]:
    """Return seams for attributes of a class's objects; they can be checked without an object."""
    return tuple(Seam(owner, name, stored=True) for name in names)


@functools.cache
def _stored(owner: type) -> frozenset[str]:
    """Return the attributes that methods of a class store, in ``self`` or elsewhere."""
    return frozenset(
        instruction.argval
        for cls in owner.__mro__
        for member in vars(cls).values()
        if inspect.isfunction(member)
        # Start-up files wrap what makes a pool; others wrap it as well.
        for instruction in dis.get_instructions(inspect.unwrap(member))
        if instruction.opname == "STORE_ATTR"
    )


def check_attributes(obj: object, names: tuple[str, ...], host: str) -> None:
    """Make sure that an object has all attributes that are needed.

    Raises
    ------
    ConfigurationError
        Names what is missing; nothing was changed.
    """
    missing = [name for name in names if not hasattr(obj, name)]
    if missing:
        raise ConfigurationError(
            f"this {type(obj).__module__}.{type(obj).__qualname__} cannot be guarded as a {host}: "
            f"it has no {', '.join(missing)}. It is as it was."
        )


def check(seams: tuple[Seam, ...], host: str) -> None:
    """Make sure that all seams are there.

    Raises
    ------
    ConfigurationError
        Names what is missing; nothing was changed.
    """
    problems = [problem for seam in seams if (problem := seam.problem())]
    if problems:
        raise ConfigurationError(
            f"this version of {host} cannot be guarded: {'; '.join(problems)}. The pool is as it was."
        )


@dataclass
class Patch:
    """Wraps one method of a class, or function of a module, while anybody needs it.

    `take` and `drop` count; the first applies it and the last puts the very
    object back that was there.
    """

    owner: type | ModuleType
    name: str
    wrapper: Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]
    _users: int = 0
    _original: Any = None
    _applied: Any = None

    def take(self) -> None:
        """Apply the patch, or count one more user of it."""
        with _lock:
            self._users += 1
            # Still there, under somebody else's patch perhaps: count only.
            if self._applied is None or self.owner.__dict__[self.name] is self._original:
                import wrapt

                self._original = self.owner.__dict__[self.name]
                wrapt.wrap_function_wrapper(self.owner, self.name, self.wrapper)
                self._applied = self.owner.__dict__[self.name]

    def drop(self) -> None:
        """Count one user less; the last one restores the original.

        If somebody else has patched over it since, theirs stays, and ours
        passes everything through.
        """
        with _lock:
            self._users = max(0, self._users - 1)
            if self._users == 0 and self.owner.__dict__.get(self.name) is self._applied:
                setattr(self.owner, self.name, self._original)
                self._applied = None


def _in_forked_process() -> None:
    global _lock
    # A thread that does not exist here may have held it.
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
