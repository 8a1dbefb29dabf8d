"""Options of every wrong kind, and numbers that are not Python's own.

Siblings: values too large to print, to convert or to wait for; values whose repr, comparison or conversion
raises, is endless or has control characters; numbers of other libraries (numpy, fractions, enums); the same
by `guard`, `Policy`, `limits`, `install` and POOLWARDEN; a POOLWARDEN or POOLWARDEN_REPORT that nearly fills
what one variable may hold.
"""

from __future__ import annotations

import enum
import multiprocessing
import os
import pickle
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

import poolwarden
from poolwarden import ConfigurationError, Policy, guard, install, limits

SOURCE = str(Path(poolwarden.__file__).parents[1])
#: Bytes of one variable with its name and value, on Linux with pages of 4 kB.
VARIABLE_MAX = 131_072


class NoRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


class LongRepr:
    def __repr__(self):
        return "\x1b[2J" + "x" * 10_000_000


class Fickle(float):
    def __gt__(self, other):
        raise RuntimeError("not comparable")

    __lt__ = __ge__ = __le__ = __gt__

    def __float__(self):
        raise RuntimeError("no float")


class Three(enum.IntEnum):
    three = 3


NAN, INF = float("nan"), float("inf")
BAD = [
    10**5000,
    -(10**5000),
    NoRepr(),
    LongRepr(),
    NAN,
    INF,
    -INF,
    -1,
    -0.5,
    True,
    False,
    "3",
    "",
    b"3",
    [3],
    (),
    {},
]
BAD += [1j, Decimal(3), Fraction(-1, 2), Fraction(10**5000), Fickle(3), object, print]


@pytest.mark.parametrize("value", BAD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["timeout", "grace", "retries", "losses", "startup_timeout", "on_event"])
def test_a_bad_value_is_one_clear_error(name, value):
    if name == "on_event" and callable(value):
        pytest.skip("it can be called")
    if name == "losses" and callable(value):
        pytest.skip("may be meant")
    with pytest.raises(ConfigurationError, match=f"^{name} must be ") as caught:
        Policy(**{name: value})
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 500
    with pytest.raises(ConfigurationError):
        install(**{name: value})
    if name in ("timeout", "grace", "retries"):
        with pytest.raises(ConfigurationError):
            limits(print, **{name: value})


def test_guard_leaves_the_pool_as_it_was():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        for value in (10**5000, NoRepr(), Fraction(10**5000)):
            with pytest.raises(ConfigurationError):
                guard(pool, timeout=value)
        assert type(pool) is multiprocessing.pool.Pool
        assert pool.apply(abs, (-1,)) == 1


@pytest.mark.parametrize("value", [Three.three, Fraction(7, 2), 3.5])
def test_other_numbers_are_numbers(value):
    policy = Policy(timeout=value, grace=value, startup_timeout=value)
    assert policy.timeout == policy.grace == policy.startup_timeout == float(value)
    assert type(policy.timeout) in (int, float)


@pytest.mark.parametrize("kind", ["int64", "int8", "uint32", "float64", "float32"])
def test_numpys_numbers_are_numbers_and_do_not_travel(kind):
    numpy = pytest.importorskip("numpy")
    value = getattr(numpy, kind)(3)
    policy = Policy(timeout=value, grace=value)
    assert (policy.timeout, type(policy.timeout)) == (3, float if "float" in kind else int)
    assert b"numpy" not in pickle.dumps(limits(print, timeout=value))
    if "int" in kind:
        assert type(Policy(retries=value).retries) is int
    else:
        with pytest.raises(ConfigurationError):
            Policy(retries=value)
    with pytest.raises(ConfigurationError):
        Policy(timeout=numpy.bool_(True))
    with pytest.raises(ConfigurationError):
        Policy(timeout=numpy.float64("nan"))


@pytest.mark.parametrize("value", [1e300, sys.float_info.max, 5e-324, 10**300])
def test_extreme_durations_work(value):
    with guard(
        multiprocessing.get_context("fork").Pool(1), timeout=max(value, 20), startup_timeout=max(value, 20)
    ) as p:
        assert p.apply_async(abs, (-1,)).get(20) == 1


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POOLWARDEN")}
    path = os.pathsep.join([str(Path(SOURCE) / "poolwarden/cli/follow"), SOURCE])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


MAKES_POOL_AND_PROGRAM = """
import multiprocessing, subprocess, sys
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply(abs, (-1,)), flush=True)
subprocess.run([sys.executable, "-c", "print('below')"], check=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other bounds")
@pytest.mark.parametrize("name", ["POOLWARDEN", "POOLWARDEN_REPORT"])
@pytest.mark.parametrize("text", ["x{}", "timeout={}", "timeout=30{}", "/tmp/{}.json"])
def test_a_variable_that_nearly_fills_its_place_costs_a_line(name, text):
    filler = "9" if "=" in text and text != "timeout=30{}" else " " if "=" in text else "x"
    value = text.format(filler * (VARIABLE_MAX - len(name) - len(text)))
    ran = run(MAKES_POOL_AND_PROGRAM, **{name: value})
    assert (ran.returncode, ran.stdout.split()) == (0, ["1", "below"]), ran.stderr[-1000:]
    assert len(ran.stderr) < 1000
    assert ran.stderr.count("\n") <= 1
