"""Colour and characters: what a terminal, a pipe and a narrow encoding get."""

from __future__ import annotations

import io

import pytest

from poolwarden.cli.terminal import Terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_terminal_gets_colour():
    assert Terminal(Screen()).style("hung", "bold", "red") == "\033[1;31mhung\033[0m"


@pytest.mark.parametrize(
    ("stream", "variable", "value"),
    [(io.StringIO(), "TERM", "xterm"), (Screen(), "NO_COLOR", "1"), (Screen(), "TERM", "dumb")],
    ids=["pipe", "NO_COLOR", "dumb"],
)
def test_nobody_else_does(monkeypatch, stream, variable, value):
    monkeypatch.setenv(variable, value)

    assert Terminal(stream).style("hung", "red") == "hung"


def test_an_empty_no_color_means_nothing(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")

    assert Terminal(Screen()).coloured


def test_a_character_that_the_encoding_lacks_is_escaped():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    Terminal(stream).write("oom_kill 3 → 4")

    assert raw.getvalue() == b"oom_kill 3 \\u2192 4\n"
