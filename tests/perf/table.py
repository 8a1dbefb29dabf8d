"""The results as a table for people."""

from __future__ import annotations

from collections.abc import Iterable

from .pairs import Result

HEAD = ("", "bare", "guarded", "", "range", "n", "now", "target", "")
#: Columns of text; the rest are numbers, to the right.
LEFT = {0, 6, 7, 8}


def render(results: Iterable[Result]) -> str:
    """Return the table, one line a result."""
    lines = [HEAD, *(_cells(result) for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(result: Result) -> tuple[str, ...]:
    row = result.row
    title = f"{row.title}, {row.unit}"
    if result.failure or result.value is None:
        return title, "", "", "failed", "", "", row.stage, row.target, result.failure[:80]
    sign = {"ratio": "x ", "over": "+ ", "value": ""}[row.how]
    if row.how == "value":
        spread = f"p99 {_number(result.high)}" if result.count > 4 else _number(result.high)
    else:
        spread = f"{_number(result.low)} .. {_number(result.high)}"
    return (
        title,
        _number(result.bare),
        _number(result.subject),
        (sign + _number(result.value)) if row.how != "value" else _number(result.value),
        spread,
        str(result.count),
        row.stage,
        row.target,
        "MISSED" if result.misses else "",
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) < 0.005:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}"
