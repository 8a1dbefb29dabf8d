"""The documented schema of the JSON report, as something that can be checked."""

from __future__ import annotations

from typing import Any

from poolwarden.records import CAUSES, EVENT_KINDS

NUMBER = (int, float)
TASK = {"function": str, "index": (int, None), "site": (str, None), "attempts": int}
EXIT = {
    "pid": (int, None),
    "exitcode": (int, None),
    "signal": (str, None),
    "cause": set(CAUSES),
    "evidence": [str],
}
REPORT: dict[str, Any] = {
    "schema": {1},
    "poolwarden": str,
    "python": str,
    "platform": str,
    "program": str,
    "pid": int,
    "started": NUMBER,
    "ended": NUMBER,
    "counts": dict,
    "left_out": {"events": int, "stacks": int, "pools": int, "workers": int, "bars": int},
    "pools": [
        {
            "name": str,
            "host": str,
            "opened": NUMBER,
            "closed": (*NUMBER, None),
            "calls": (int, None),
            "workers": [
                {
                    "pid": int,
                    "started": NUMBER,
                    "ended": (*NUMBER, None),
                    "end": {"left", "lost", "killed", "running"},
                }
            ],
            "bars": [
                {
                    "pid": int,
                    "start": NUMBER,
                    "end": NUMBER,
                    "function": (str, None),
                    "index": (int, None),
                    "tasks": int,
                    "lost": bool,
                }
            ],
        }
    ],
    "events": [
        {
            "kind": set(EVENT_KINDS),
            "time": NUMBER,
            "pool": str,
            "pid": (int, None),
            "detail": str,
            "stack": (str, None),
            "task": (TASK, None),
            "exit": (EXIT, None),
        }
    ],
}


def check(value: Any, schema: Any = REPORT, where: str = "report") -> None:
    """Fail unless `value` is as `schema` says: no field more, none less."""
    if isinstance(schema, tuple):
        if value is None:
            assert None in schema, f"{where} is null"
            return
        fitting = [each for each in schema if each is not None and _fits(value, each)]
        assert fitting, f"{where} is {value!r}"
        schema = fitting[0]
    if isinstance(schema, dict):
        assert isinstance(value, dict), f"{where} is {value!r}"
        assert value.keys() == schema.keys(), f"{where} has {sorted(value)}"
        for name, each in schema.items():
            check(value[name], each, f"{where}.{name}")
    elif isinstance(schema, list):
        for number, each in enumerate(value):
            check(each, schema[0], f"{where}[{number}]")
    else:
        assert _fits(value, schema), f"{where} is {value!r}"


def _fits(value: Any, schema: Any) -> bool:
    if isinstance(schema, set):
        return value in schema
    kind = dict if isinstance(schema, dict) else schema
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
