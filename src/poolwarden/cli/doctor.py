"""``poolwarden doctor``: what there is to guard here, and with what.

Covers showing it, as text for a bug report or as JSON; looking is in
`doctor_checks`. Changes nothing, and starts no pool.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any, Final, TextIO

from poolwarden.cli.doctor_checks import examine
from poolwarden.cli.terminal import Terminal
from poolwarden.plaintext import visible

WIDTH: Final = 98  # characters, so that it survives being quoted
LABEL: Final = 20


def run(stream: TextIO, *, as_json: bool = False) -> int:
    """Show what was found on `stream`; return 0 if every installed host can be guarded, else 1."""
    found = examine()
    if as_json:
        Terminal(stream).write(json.dumps(found, indent=1))
    else:
        for line in lines(found):
            Terminal(stream).write(line)
    return 0 if found["ok"] else 1


def lines(found: dict[str, Any]) -> list[str]:
    """Return the text, line by line."""
    shown = [f"poolwarden doctor: {_verdict(found)}", ""]
    for title in ("versions", "hosts", "start methods", "this system", "shared memory", "POOLWARDEN"):
        if title == "hosts":
            shown += ["hosts", *(line for host in found["hosts"] for line in _host(host)), ""]
        elif title == "this system":
            shown += [title, *(line for able in found["abilities"] for line in _ability(able)), ""]
        else:
            shown += [title, *(line for label in found[title].items() for line in _entry(*label)), ""]
    return shown[:-1]


def _verdict(found: dict[str, Any]) -> str:
    if found["lacking"]:
        return f"no pool can be guarded on this system: it lacks {', '.join(found['lacking'])}"
    bad = [host["kind"] for host in found["hosts"] if host["installed"] and not host["can_be_guarded"]]
    if found["ok"]:
        return "every installed host can be guarded"
    return f"cannot be guarded: {', '.join(bad)}" if bad else "no pool can be guarded"


def _host(host: dict[str, Any]) -> list[str]:
    if not host["installed"]:
        return _entry(host["kind"], "not installed", 44)
    seams = f"{host['found']} of {host['found'] + len(host['missing'])} seams found"
    said = [
        f"{host['version']}; {host['problem'] or seams}",
        *(f"missing: {name}" for name in host["missing"]),
    ]
    return [line for text in said for line in _entry(host["kind"] if text is said[0] else "", text, 44)]


def _ability(able: dict[str, Any]) -> list[str]:
    word = {True: "yes", False: "no", None: "unknown"}[able["available"]]
    text = f"{word}: {able['detail']}"
    if not able["available"]:
        text += f". Without: {able['without']}"
    return _entry(able["name"], text)


def _entry(label: str, value: object, width: int = LABEL) -> list[str]:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    wrapped = textwrap.wrap(visible(text), WIDTH - width - 2, break_on_hyphens=False) or [""]
    return [f"  {label if number == 0 else '':<{width}}{line}" for number, line in enumerate(wrapped)]
