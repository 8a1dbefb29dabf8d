"""Patches of a host's classes: applied once, counted, and undone exactly."""

from __future__ import annotations

import functools
import inspect
import os
import threading

import pytest

from poolwarden.errors import ConfigurationError
from poolwarden.system.patches import Patch, Seam, attributes_of, check, check_attributes
from tests.contract.waiting import DEADLINE, ENDING, within
from tests.worker.processes import answer_of


@pytest.fixture
def host():
    class Host:
        """Has a method of each kind that is patched."""

        @staticmethod
        def static(processes, pool):
            """Documented."""
            return "static", processes, pool

        def plain(self, value=1):
            return "plain", self, value

        constant = 3

    return Host


@pytest.fixture
def calls():
    return []


@pytest.fixture
def make_patch(host, calls):
    def make(name):
        def wrapper(wrapped, instance, args, kwargs):
            calls.append((instance, args, kwargs))
            return wrapped(*args, **kwargs)

        return Patch(host, name, wrapper)

    return make


NAMES = pytest.mark.parametrize("name", ["static", "plain"])


def call(host, name):
    return host.static(1, pool=2) if name == "static" else host().plain(value=5)


@NAMES
def test_a_patch_sees_each_call_and_the_call_stays_as_it_was(host, calls, make_patch, name):
    expected = call(host, name)
    make_patch(name).take()
    found = call(host, name)
    assert (found[0], found[2]) == (expected[0], expected[2])
    assert len(calls) == 1
    instance, args, kwargs = calls[0]
    assert isinstance(instance, host) == (name == "plain")
    assert (args, kwargs) == (((1,), {"pool": 2}) if name == "static" else ((), {"value": 5}))


@NAMES
def test_dropping_it_puts_the_very_object_back(host, calls, make_patch, name):
    original = host.__dict__[name]
    patch = make_patch(name)
    patch.take()
    assert host.__dict__[name] is not original
    patch.drop()
    assert host.__dict__[name] is original
    call(host, name)
    assert calls == []


def test_a_static_method_stays_one_with_its_signature_and_words(host, make_patch):
    make_patch("static").take()
    assert list(inspect.signature(host.static).parameters) == ["processes", "pool"]
    assert host.static.__name__ == "static"
    assert host.static.__doc__ == "Documented."
    assert host().static(1, 2) == ("static", 1, 2)


@NAMES
def test_users_are_counted(host, calls, make_patch, name):
    original = host.__dict__[name]
    patch = make_patch(name)
    for _ in range(3):
        patch.take()
    call(host, name)
    assert len(calls) == 1
    patch.drop()
    patch.drop()
    call(host, name)
    assert len(calls) == 2
    patch.drop()
    assert host.__dict__[name] is original


@NAMES
def test_dropping_too_often_is_no_error(host, calls, make_patch, name):
    original = host.__dict__[name]
    patch = make_patch(name)
    patch.drop()
    patch.take()
    patch.drop()
    patch.drop()
    assert host.__dict__[name] is original
    patch.take()
    call(host, name)
    assert len(calls) == 1


def patch_over(host, name):
    """What another library does: put its own around what it finds. Return what undoes it."""
    found = host.__dict__[name]
    function = getattr(host, name)

    def theirs(*args, **kwargs):
        return ("theirs", *function(*args, **kwargs))

    setattr(host, name, staticmethod(theirs) if name == "static" else theirs)
    return lambda: setattr(host, name, found)


@NAMES
def test_what_others_patched_over_it_stays(host, make_patch, name):
    patch = make_patch(name)
    patch.take()
    patch_over(host, name)
    theirs = host.__dict__[name]
    patch.drop()
    assert host.__dict__[name] is theirs
    assert call(host, name)[0] == "theirs"


@NAMES
def test_it_is_applied_once_though_others_patched_over_it(host, calls, make_patch, name):
    patch = make_patch(name)
    patch.take()
    patch_over(host, name)
    patch.drop()
    patch.take()
    assert call(host, name)[0] == "theirs"
    assert len(calls) == 1


@NAMES
def test_it_is_taken_back_once_others_have_taken_theirs_back(host, calls, make_patch, name):
    original = host.__dict__[name]
    patch = make_patch(name)
    patch.take()
    undo = patch_over(host, name)
    patch.drop()
    undo()
    patch.take()
    call(host, name)
    assert len(calls) == 1
    patch.drop()
    assert host.__dict__[name] is original


@NAMES
def test_it_is_applied_again_when_others_put_the_original_back(host, calls, make_patch, name):
    original = host.__dict__[name]
    patch = make_patch(name)
    patch.take()
    setattr(host, name, original)
    patch.take()
    call(host, name)
    assert len(calls) == 1
    patch.drop()
    patch.drop()
    assert host.__dict__[name] is original


@NAMES
def test_it_goes_around_what_others_patched_before(host, calls, make_patch, name):
    patch_over(host, name)
    theirs = host.__dict__[name]
    patch = make_patch(name)
    patch.take()
    assert call(host, name)[0] == "theirs"
    assert len(calls) == 1
    patch.drop()
    assert host.__dict__[name] is theirs


# -- what a host has to have ----------------------------------------------------------------------


def test_seams_that_are_there_are_no_problem(host):
    check((Seam(host, "static", ("pool",)), Seam(host, "plain"), Seam(host, "constant")), "Host")


def test_all_problems_are_told_at_once_and_nothing_is_changed(host):
    before = dict(host.__dict__)
    seams = (Seam(host, "gone"), Seam(host, "static", ("pool", "initializer", "initargs")))
    with pytest.raises(ConfigurationError) as caught:
        check(seams, "Host")
    text = str(caught.value)
    assert "this version of Host cannot be guarded" in text
    assert "Host.gone does not exist" in text
    assert "Host.static has no parameter initializer, initargs" in text
    assert dict(host.__dict__) == before


def test_a_seam_that_is_patched_still_has_its_parameters(host, make_patch):
    make_patch("static").take()
    assert Seam(host, "static", ("processes", "pool")).problem() is None


def test_missing_attributes_are_named(host):
    check_attributes(host(), ("plain", "constant"), "Host")
    with pytest.raises(ConfigurationError, match=r"as a Pool: it has no _one, _two\. It is as it was"):
        check_attributes(host(), ("plain", "_one", "_two"), "Pool")


def test_attributes_are_found_though_what_stores_them_is_wrapped():
    class Host:
        def __init__(self):
            self.there = 1

    bare = Host.__init__

    @functools.wraps(bare)
    def wrapper(self):
        bare(self)

    Host.__init__ = wrapper
    there, missing = attributes_of(Host, ("there", "missing"))

    assert there.problem() is None
    assert missing.problem() is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_process_that_is_forked_while_a_patch_is_applied_can_apply_it():
    entered, go_on = threading.Event(), threading.Event()

    class Slow(type):
        def __setattr__(cls, name, value):
            entered.set()
            go_on.wait(DEADLINE)
            super().__setattr__(name, value)

    class Host(metaclass=Slow):
        def method(self):
            return 1

    def wrapper(wrapped, instance, args, kwargs):
        return wrapped() + 1

    patch = Patch(Host, "method", wrapper)
    thread = threading.Thread(target=patch.take, daemon=True)
    thread.start()
    assert entered.wait(DEADLINE)

    def use():
        go_on.set()
        within(ENDING, patch.take)
        return Host().method()

    try:
        assert answer_of(use) == 2
    finally:
        go_on.set()
        thread.join(DEADLINE)
        patch.drop()
