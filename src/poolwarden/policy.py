"""The options of a guarded pool: checked once, then only read.

Covers the values and the per-task overrides of `limits`; which values are
valid, and how `POOLWARDEN` spells them, is in `options`. Does not apply any of
them. Pure; runs in the parent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any, Final, Literal, ParamSpec, TypeAlias, TypeVar

from .errors import ConfigurationError, PoolWardenError
from .limited import Limited
from .options import problem, read, usual
from .records import Event

__all__ = ["Policy", "limits", "overrides_of"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

Losses: TypeAlias = Literal["raise", "return"] | Callable[[PoolWardenError], Any]
"""What becomes of a lost or timed-out item; see `Policy`."""


class _NotGiven:
    """Stands for an option of `limits` that was not given; shown in its signature."""

    def __repr__(self) -> str:
        return "<the pool's>"


_NOT_GIVEN: Final[Any] = _NotGiven()
#: Wrappers one around the other that are looked through; they may go round in a circle.
_WRAPPERS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Policy:
    """What a guarded pool does about lost workers and long tasks.

    Parameters
    ----------
    timeout : float, optional
        Seconds one task (one item of a chunk or batch) may run, counted from
        its start in the worker. None: no limit.
    grace : float
        Seconds between `TaskTimeoutError` raised inside the task and SIGKILL;
        0: SIGKILL at once.
    retries : int
        How often a task lost with its worker is run again. A task that raised
        is never run again.
    losses : {"raise", "return"} or callable
        What becomes of a lost or timed-out item of ``map``, ``starmap``,
        ``imap`` and joblib's ``Parallel``. ``"raise"``: the call raises its
        error. ``"return"``: the error object takes the place of its result,
        and the rest of the call goes on. A callable: likewise, with what
        ``losses(error)`` returns in that place; if it raises, the call raises
        that, with the error as its cause (``raise error`` is as ``"raise"``).
        It runs in the thread that delivers results, so it must not wait for
        the pool. A task that was submitted alone (``apply_async``, ``submit``)
        raises in any case.
    startup_timeout : float, optional
        Seconds a worker may take to get through its initializer. None: no
        limit.
    cancel_running : bool
        Whether to cancel a future of an executor stops its task even if that
        runs, as `poolwarden.cancel` does: by ``Future.cancel``, and by what
        cancels asyncio's future of it (``wait_for``, a task group).
    on_event : callable, optional
        Called with each `Event`, in a thread of poolwarden.

    Raises
    ------
    ConfigurationError
        A value is of the wrong kind or out of range; the text names the valid
        ones.

    Notes
    -----
    Nothing runs twice with ``retries=0``. With more, only the item that was
    running when its worker died, and one that had just ended but whose result
    was not kept yet: each at most `retries` times more. With ``retries``, or
    ``losses`` other than ``"raise"``, each result of a chunk or batch is kept
    as soon as it is there, so that another worker goes on behind it; with
    neither, a chunk or batch that loses its worker fails as a whole.
    """

    timeout: float | None = None
    grace: float = 0.0
    retries: int = 0
    losses: Losses = "raise"
    startup_timeout: float | None = None
    cancel_running: bool = False
    on_event: Callable[[Event], object] | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if (why := problem(name, value)) is not None:
                raise ConfigurationError(why)
            object.__setattr__(self, name, usual(value))

    def merged(self, **overrides: Any) -> Policy:
        """Return this policy with some options replaced, checked again.

        Raises
        ------
        ConfigurationError
            A value is not valid.
        TypeError
            There is no such option.
        """
        return replace(self, **overrides) if overrides else self

    @classmethod
    def from_env(cls, text: str) -> Policy | None:
        """Return the policy that the text of `POOLWARDEN` asks for.

        Parameters
        ----------
        text : str
            ``1``, ``on``, ``true``, ``yes``: the defaults. ``0``, ``off``,
            ``false``, ``no``, empty: off. Else options, as in
            ``timeout=30,retries=1``. Upper or lower case; never evaluated.

        Returns
        -------
        Policy or None
            None means off.

        Raises
        ------
        ConfigurationError
            Anything else; the text names the valid options.
        """
        try:
            options = read(text)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        return None if options is None else cls(**options)


def limits(
    func: Callable[_P, _R],
    *,
    timeout: float | None = _NOT_GIVEN,
    grace: float = _NOT_GIVEN,
    retries: int = _NOT_GIVEN,
) -> Callable[_P, _R]:
    """Return `func` with limits of its own, for any way of submitting it.

    In a guarded pool the options given here replace those of the pool for
    tasks that call the result; anywhere else it is a plain call of `func`.
    They are seen through `functools.partial` and through any object that has
    what it wraps as ``__wrapped__``, as what scikit-learn's own ``delayed``
    makes has; not through a function that calls the result.

    Parameters
    ----------
    func : callable
        What to call. The result pickles if `func` does; so bind the result to
        another name, or `pickle` finds the result where it looks for `func`.
    timeout, grace, retries
        As in `Policy`; ``timeout=None`` means no limit. Not given: the pool's.

    Raises
    ------
    ConfigurationError
        As for `Policy`.
    TypeError
        `func` cannot be called.
    """
    if not callable(func):
        raise TypeError(f"limits() needs a callable, not {type(func).__name__}")
    given: dict[str, Any] = {"timeout": timeout, "grace": grace, "retries": retries}
    overrides = {name: value for name, value in given.items() if value is not _NOT_GIVEN}
    checked = Policy(**overrides)
    return Limited(func, {name: getattr(checked, name) for name in overrides})


def overrides_of(func: object) -> dict[str, Any]:
    """Return the options that `limits` gave to `func`, outermost first to win.

    Looks through `functools.partial`, nested `limits` and objects with
    ``__wrapped__``; {} for anything else.
    """
    found: dict[str, Any] = {}
    for _ in range(_WRAPPERS_MAX):
        # By its type: an object's ``__class__`` may be code of the user's.
        kind = type(func)
        if issubclass(kind, Limited):
            assert isinstance(func, Limited)
            found = {**func.overrides, **found}
            func = func.__wrapped__
        elif issubclass(kind, functools.partial):
            assert isinstance(func, functools.partial)
            func = func.func
        elif (inner := _wrapped_by(func)) is not None:
            func = inner
        else:
            break
    return found


def _wrapped_by(func: object) -> object:
    if type(func) is FunctionType:
        return None
    try:
        # The attribute itself is not asked for: some objects make up any that they are asked for.
        own = vars(func)
    except BaseException:
        return None
    return own.get("__wrapped__") if type(own) is dict else None
