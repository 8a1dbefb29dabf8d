"""Policy, POOLWARDEN's grammar, `limits`, and the names of the package."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
import unittest.mock
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import poolwarden
from poolwarden.errors import ConfigurationError
from poolwarden.limited import Limited
from poolwarden.policy import Policy, limits, overrides_of

NAN, INF = float("nan"), float("inf")


def add(a, b=1):
    """Return a sum."""
    return a + b


class Wrapper:
    """As scikit-learn's `delayed` puts one around a function."""

    def __init__(self, func):
        functools.update_wrapper(self, func)

    def __call__(self, *args):
        return self.__wrapped__(*args)


@functools.wraps(limits(add, timeout=5))
def calls_it(*args):
    return add(*args)


ENDLESS = Wrapper(add)
ENDLESS.__wrapped__ = ENDLESS


class Broken:
    @property
    def __dict__(self):
        raise RuntimeError


def test_defaults():
    assert Policy() == Policy(
        timeout=None, grace=0.0, retries=0, losses="raise", startup_timeout=None, on_event=None
    )


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0.001},
        {"timeout": 5},
        {"grace": 0},
        {"grace": 1.5},
        {"retries": 3},
        {"losses": "return"},
        {"startup_timeout": 2},
        {"on_event": print},
    ],
)
def test_valid_options(options):
    (name, value), *_ = options.items()
    assert getattr(Policy(**options), name) == value
    assert Policy().merged(**options) == Policy(**options)


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        *[
            (name, value, "None or a finite number of seconds above 0")
            for name in ("timeout", "startup_timeout")
            for value in (0, -1, NAN, INF, True, "5", 10**400, 1j)
        ],
        *[
            ("grace", value, "a finite number of seconds, 0 or more")
            for value in (-0.1, NAN, INF, False, None, "1")
        ],
        *[("retries", value, "a whole number, 0 or more") for value in (-1, 1.0, True, None, "1")],
        *[
            ("losses", value, "'raise' or 'return', or a callable that takes the error")
            for value in ("ignore", None, True, ["raise"])
        ],
        ("on_event", 3, "None or a callable that takes one Event"),
    ],
)
def test_invalid_options_are_refused_by_name(name, value, valid):
    with pytest.raises(ConfigurationError, match=f"^{name} must be {valid}, not "):
        Policy(**{name: value})
    with pytest.raises(ConfigurationError, match=f"^{name} must be"):
        Policy().merged(**{name: value})


def test_merged_leaves_the_original():
    policy = Policy(timeout=5, retries=1)
    assert policy.merged(timeout=None) == Policy(retries=1)
    assert policy.merged() is policy
    assert policy.timeout == 5
    with pytest.raises(FrozenInstanceError):
        policy.timeout = 6
    with pytest.raises(TypeError):
        policy.merged(patience=1)


def test_policy_pickles():
    policy = Policy(timeout=5, retries=1)
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize("text", ["", "0", "off", "OFF", "False", "no", "  ", " No "])
def test_environment_off(text):
    assert Policy.from_env(text) is None


@pytest.mark.parametrize("text", ["1", "on", "TRUE", "Yes", " on "])
def test_environment_on(text):
    assert Policy.from_env(text) == Policy()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("timeout=30,retries=1", Policy(timeout=30.0, retries=1)),
        (" Timeout = 2.5 , LOSSES=Return ", Policy(timeout=2.5, losses="return")),
        ("grace=1e-1,startup_timeout=4", Policy(grace=0.1, startup_timeout=4.0)),
    ],
)
def test_environment_options(text, policy):
    assert Policy.from_env(text) == policy


@pytest.mark.parametrize(
    "text",
    ["2", "maybe", "timeout", "timeout=", "timeout=5s", "retries=1.5", "patience=1", "timeout=1,", ",",
     "timeout=1,timeout=2", "on,retries=1", "on_event=print", "timeout=1;retries=1", "__import__('os')"],
)  # fmt: skip
def test_environment_unreadable(text):
    with pytest.raises(ConfigurationError) as caught:
        Policy.from_env(text)
    assert repr(text) in str(caught.value)
    for valid in ("1 or on", "0 or off", "timeout=30", "grace", "retries", "losses", "startup_timeout"):
        assert valid in str(caught.value)


@pytest.mark.parametrize("text", ["timeout=0", "timeout=nan", "grace=-1", "retries=-1", "losses=x"])
def test_environment_out_of_range(text):
    with pytest.raises(ConfigurationError, match=r"must be"):
        Policy.from_env(text)


def test_limits_is_a_plain_call_elsewhere():
    limited = limits(add, timeout=5)
    assert limited(2) == 3
    assert limited(2, b=5) == 7
    assert limits(dict)(self=1, func=2) == {"self": 1, "func": 2}
    assert limited.__wrapped__ is add
    assert (limited.__name__, limited.__module__, limited.__doc__) == ("add", __name__, add.__doc__)


def test_limits_keeps_only_what_was_given():
    assert limits(add).overrides == {}
    assert limits(add, timeout=None).overrides == {"timeout": None}
    assert limits(add, timeout=1, grace=0.5, retries=2).overrides == {
        "timeout": 1, "grace": 0.5, "retries": 2,
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"timeout": 0}, {"grace": -1}, {"retries": True}])
def test_limits_are_checked_at_once(options):
    with pytest.raises(ConfigurationError, match="must be"):
        limits(add, **options)


def test_limits_needs_a_callable():
    with pytest.raises(TypeError, match="needs a callable, not int"):
        limits(3)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_limits_pickles(protocol):
    limited = pickle.loads(pickle.dumps(limits(add, timeout=5), protocol))
    assert type(limited) is Limited
    assert limited.__wrapped__ is add
    assert limited.overrides == {"timeout": 5}
    assert limited(1) == 2


def test_limits_pickles_with_cloudpickle():
    cloudpickle = pytest.importorskip("cloudpickle")
    limited = pickle.loads(cloudpickle.dumps(limits(lambda x: x * 2, retries=1)))
    assert limited(4) == 8
    assert limited.overrides == {"retries": 1}


def test_limits_accepts_callables_without_a_name():
    limited = limits(functools.partial(add, 1), timeout=5)
    assert limited() == 2
    assert copy.deepcopy(limited).overrides == {"timeout": 5}
    assert "timeout=5" in repr(limited)


@pytest.mark.parametrize(
    ("func", "overrides"),
    [
        (add, {}),
        (None, {}),
        (functools.partial(add), {}),
        (limits(add, timeout=5), {"timeout": 5}),
        (functools.partial(functools.partial(limits(add, timeout=5), 1), b=2), {"timeout": 5}),
        (limits(functools.partial(limits(add, timeout=5, retries=1), 1), timeout=6),
         {"timeout": 6, "retries": 1}),
        (Wrapper(limits(add, timeout=5)), {"timeout": 5}),
        (functools.partial(limits(Wrapper(limits(add, timeout=5)), retries=1)), {"timeout": 5, "retries": 1}),
        (functools.cache(limits(add, timeout=5)), {"timeout": 5}),
        (Wrapper(add), {}),
        (calls_it, {}),
        (functools.partial(calls_it), {}),
        (ENDLESS, {}),
        (Broken(), {}),
        (unittest.mock.call, {}),
    ],
)  # fmt: skip
def test_overrides_of(func, overrides):
    assert overrides_of(func) == overrides


def test_overrides_of_a_limited_is_not_the_dict_itself():
    limited = limits(add, timeout=5)
    overrides_of(limited)["timeout"] = 6
    assert limited.overrides == {"timeout": 5}


def in_fresh_interpreter(code):
    src = str(Path(poolwarden.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {src!r}); before = set(sys.modules)\n{code}"
    run = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_the_callable_of_limits_is_light():
    new = in_fresh_interpreter("import poolwarden.limited; print(*sorted(set(sys.modules) - before))")
    assert set(new) <= {"__future__", "poolwarden", "poolwarden.limited", "poolwarden.on_import"}


def test_public_names_are_found_on_demand():
    assert poolwarden.Policy is Policy
    assert poolwarden.limits is limits
    assert poolwarden.ConfigurationError is ConfigurationError
    assert poolwarden.__version__ == "0.1.0"
    assert set(poolwarden.__all__) <= set(dir(poolwarden))
    assert set(poolwarden._MODULE_OF) == {*poolwarden.__all__, "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        poolwarden.nonsense  # noqa: B018
