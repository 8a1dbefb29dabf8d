"""scikit-learn: what takes the place of a lost task in its calls of joblib.

With ``losses="return"`` that would be an error object, which scikit-learn
takes for a result and fails on. It has a way of its own for a fit that fails,
`error_score`; a lost one goes the same way. The other functions that it runs
through joblib have none, so there a loss is raised. Tasks of the user's, and
those of a scikit-learn in which this does not work, are left as they are.
Imports nothing of scikit-learn that is not there already. Runs in the thread
that submits, `_Fit.failed` in the one that delivers results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...policy import Policy

_MODULE: Final = "sklearn.model_selection._validation"
#: Arguments of ``_fit_and_score`` that say what its result has to hold.
_KEPT: Final = ("scorer", "parameters", "error_score")
_KEPT_PREFIX: Final = "return_"
#: Those that may hold as much data as the arrays themselves.
_EMPTIED: Final[tuple[str, ...]] = ("fit_params", "score_params")


def for_tasks(policy: Policy, items: Sequence[tuple[Any, Any, Any]], base: int) -> Policy:
    """Return the policy for a batch of a call that wants losses returned.

    Parameters
    ----------
    policy : Policy
        With ``losses="return"``.
    items : sequence of tuple
        The tasks, each with its function, arguments and keyword arguments.
    base : int
        Index of the first task in its call.

    Returns
    -------
    Policy
        `policy` itself if no task is scikit-learn's own.
    """
    if "sklearn" not in sys.modules:
        return policy
    own: dict[int, Callable[[Any], Any]] = {}
    fit_and_score = getattr(sys.modules.get(_MODULE), "_fit_and_score", None)
    for index, (func, args, kwds) in enumerate(items, base):
        inner = getattr(func, "__dict__", {}).get("__wrapped__")
        if inner is not None and inner is fit_and_score:
            own[index] = _Fit(inner, args, kwds).failed
        elif type(func).__name__ == "_FuncWrapper" and _is_of_sklearn(inner):
            own[index] = _raised
    if not own:
        return policy

    def losses(error: Any) -> Any:
        return own.get(error.task.index, _itself)(error)

    return policy.merged(losses=losses)


def _is_of_sklearn(func: Any) -> bool:
    return str(getattr(func, "__module__", "")).startswith("sklearn.")


def _itself(error: Any) -> Any:
    return error


def _raised(error: Any) -> Any:
    raise error


class _Fit:
    """One call of ``_fit_and_score``: what its result has to hold, without its data."""

    def __init__(self, fit_and_score: Any, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        self._fit_and_score = fit_and_score
        self._size = len(kwds.get("test", ()))
        self._kept = {name: kwds[name] for name in kwds if name in _KEPT or name.startswith(_KEPT_PREFIX)}
        self._emptied = {name: None for name in _EMPTIED if name in kwds}
        self._estimator = args[0] if kwds.get("return_estimator") and args else None

    def failed(self, error: Any) -> Any:
        """Return what ``_fit_and_score`` returns for a fit that raises `error`, or raise that if it does.

        It is called, with an estimator that does nothing else: the form of the
        result is its own matter.
        """
        try:
            # Not by a statement: freezers would take it along for programs that have no use for it.
            rows = sys.modules["numpy"].arange(self._size)
            given: dict[str, Any] = {"train": rows, "test": rows, "verbose": 0, **self._emptied, **self._kept}
            result = self._fit_and_score(_failing(error), rows.reshape(-1, 1), None, **given)
            if self._estimator is not None:
                result["estimator"] = self._estimator
            return result
        except Exception as why:
            if why is error:
                raise
            return error


def _failing(error: BaseException) -> Any:
    """Return an estimator that cannot be fitted."""
    base: Any = sys.modules["sklearn.base"].BaseEstimator

    class Lost(base):  # type: ignore[misc]
        def set_params(self, **parameters: Any) -> Any:
            return self

        def fit(self, *args: Any, **kwds: Any) -> Any:
            raise error

    return Lost()
