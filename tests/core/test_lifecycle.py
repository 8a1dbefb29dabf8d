"""The state of a pool: each transition of the table, and the refusal of all others."""

from __future__ import annotations

import pytest

from poolwarden.core.lifecycle import Lifecycle, State

WAYS = {
    State.GUARDED: [],
    State.UNGUARDING: ["unguard"],
    State.BROKEN: ["break"],
    State.ENDING: ["end"],
    State.RELEASED: ["end", "release"],
}


def in_state(state: State) -> Lifecycle:
    lifecycle = Lifecycle()
    for step in WAYS[state]:
        do(lifecycle, step)
    assert lifecycle.state is state
    return lifecycle


def do(lifecycle: Lifecycle, step: str) -> bool:
    if step == "unguard":
        return lifecycle.begin_unguard()
    if step == "break":
        if not lifecycle.may_break():
            return False
        lifecycle.break_("no reason", None, None, nobody_began=False)
        return True
    if step == "end":
        lifecycle.end()
        return True
    return lifecycle.release() if step == "release" else lifecycle.take_back()


@pytest.mark.parametrize(
    ("state", "step", "after"),
    [
        (State.GUARDED, "unguard", State.UNGUARDING),
        (State.UNGUARDING, "take back", State.GUARDED),
        (State.GUARDED, "break", State.BROKEN),
        (State.UNGUARDING, "break", State.BROKEN),
        (State.GUARDED, "end", State.ENDING),
        (State.UNGUARDING, "end", State.ENDING),
        (State.BROKEN, "end", State.ENDING),
        (State.ENDING, "release", State.RELEASED),
    ],
)
def test_what_the_table_has(state: State, step: str, after: State) -> None:
    lifecycle = in_state(state)
    assert do(lifecycle, step)
    assert lifecycle.state is after


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (State.UNGUARDING, "unguard"),
        (State.BROKEN, "unguard"),
        (State.BROKEN, "break"),
        (State.ENDING, "unguard"),
        (State.ENDING, "break"),
        (State.ENDING, "take back"),
        (State.RELEASED, "unguard"),
        (State.RELEASED, "break"),
        (State.RELEASED, "take back"),
        (State.RELEASED, "release"),
    ],
)
def test_what_it_has_not_is_refused_and_changes_nothing(state: State, step: str) -> None:
    lifecycle = in_state(state)
    assert not do(lifecycle, step)
    assert lifecycle.state is state


def test_the_open_tasks_of_a_broken_pool_that_is_unguarded_are_answered_still() -> None:
    lifecycle = in_state(State.BROKEN)
    assert not lifecycle.begin_unguard()
    assert lifecycle.unguarding


@pytest.mark.parametrize("state", State)
def test_a_forked_process_has_nothing_to_release(state: State) -> None:
    lifecycle = in_state(state)
    assert lifecycle.disown()
    assert not lifecycle.disown()
    assert not lifecycle.release()
    assert lifecycle.closed
    assert lifecycle.disowned
