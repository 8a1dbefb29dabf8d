"""Words and numbers of the page."""

from __future__ import annotations

import pytest

from poolwarden.report.text import code, duration, escape, plural


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (0.0004, "0 ms"),
        (0.12, "120 ms"),
        (0.9996, "1.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (99.94, "99.9 s"),
        (125.4, "2 min 05 s"),
        (600, "10 min"),
        (3599, "60 min"),
        (5940, "99 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("odd", ["\x00", "\x1b", "\x7f", "\ud800", "\u202e", "\u2066"])
def test_what_a_page_may_not_hold_is_replaced(odd):
    assert escape(f"a{odd}b") == "a\N{REPLACEMENT CHARACTER}b"


def test_markup_is_escaped():
    assert escape("<a href='x' title=\"y\">&") == "&lt;a href=&#x27;x&#x27; title=&quot;y&quot;&gt;&amp;"
    assert code("m.<locals>.f") == "<code>m.<wbr>&lt;locals&gt;.<wbr>f</code>"


def test_plurals():
    assert (plural(1, "task"), plural(0, "task"), plural(12345, "task")) == (
        "1 task",
        "0 tasks",
        "12,345 tasks",
    )
