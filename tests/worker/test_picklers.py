"""Picklers by a host's name for them: classes, functions, and what unpickles."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import pytest

from poolwarden.worker.payload import Dumper, Reader
from poolwarden.worker.picklers import make_pickler, pickling_of


def dump_by_function(obj, file, reducers=None):
    file.write(pickle.dumps((obj, reducers)))


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_a_host_may_have_a_function_in_the_place_of_a_class(memory, size):
    """It is given the reducers each time, and what it does may change at any time."""
    dumper = Dumper(make_pickler(dump_by_function, {"key": "reducer"}))
    for room in (memory.calls, None):
        where, data = dumper.dump(bytes(size), room, 1)
        assert Reader(memory.main.memory).load(where, data, 1) == (bytes(size), {"key": "reducer"})
    assert pickle.loads(dumper.dumps(1)) == (1, {"key": "reducer"})


def test_a_class_without_reducers_is_used_as_it_is():
    assert make_pickler(ForkingPickler, None) is ForkingPickler


class Thing:
    """Pickled in a special way only if there is a reducer for it."""


class PicklerWithReducers(ForkingPickler):
    def __init__(self, file, reducers=None):
        super().__init__(file)
        self.dispatch_table = {**self.dispatch_table, **(reducers or {})}


def test_a_class_is_given_the_reducers_of_its_queue():
    dumper, loads = pickling_of(f"{__name__}:PicklerWithReducers", {Thing: lambda _: (str, ("reduced",))})
    assert loads(dumper.dumps(Thing())) == "reduced"


class PicklerWithLoads(ForkingPickler):
    @classmethod
    def loads(cls, data):
        return "by its own", pickle.loads(data)


@pytest.mark.parametrize(
    ("name", "found"),
    [("multiprocessing.reduction:ForkingPickler", 1), (f"{__name__}:PicklerWithLoads", ("by its own", 1))],
)
def test_a_class_may_have_its_own_way_to_unpickle(name, found):
    dumper, loads = pickling_of(name, None)
    assert loads(dumper.dumps(1)) == found
