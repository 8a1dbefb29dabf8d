"""`POOLWARDEN` at interpreter start: guards the pools of a program that says nothing of it.

Standard library only, and little of it: this runs in every interpreter that
has the variable set, and most make no pool. It reads the variable and arms
each host's `constructors` when the host is imported.

PYTEST_DONT_REWRITE: imported before pytest's plugins, so it cannot be rewritten.
"""

from __future__ import annotations

import os

from ..hosts.registry import CONSTRUCTORS
from ..on_import import when_imported
from ..options import read
from . import constructors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Final

VARIABLE: Final = "POOLWARDEN"
REPORT: Final = "POOLWARDEN_REPORT"
#: The bad value that a process of this tree has complained of already.
_COMPLAINED: Final = "POOLWARDEN_COMPLAINED"

_text: str | None = None
_awaiting = False


def start() -> None:
    """Prepare this process as `POOLWARDEN` says; again only if it has changed, for ``poolwarden run``.

    A value that cannot be read is told on stderr, by the first process of a
    tree that sees it, and means off.
    """
    global _text, _awaiting
    # A report of what is not guarded would never have anything to tell.
    text = os.environ.get(VARIABLE, "1" if os.environ.get(REPORT) else "")
    if text == _text:
        return
    _text = text
    options = None
    try:
        options = read(text)
    except ValueError as error:
        from ..plaintext import SHOWN_MAX

        # A part of it is enough: a text that just fits would not fit under this longer name, and no program
        # could be started any more.
        told = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]} {len(text)}"
        if os.environ.get(_COMPLAINED) != told:
            os.environ[_COMPLAINED] = told
            constructors.complain(error)
    constructors.wait_for_first_pool(options)
    if options is not None and not _awaiting:
        _awaiting = True
        for module in CONSTRUCTORS:
            when_imported(module, _arm)


def _arm(module: ModuleType) -> None:
    if constructors.pending_options() is not None:
        constructors.arm(module, CONSTRUCTORS[module.__name__], _install, _guard_late)


def _install() -> None:
    """Install the guard in the place of the replacements; a failure is told, and the pool is made bare."""
    options = constructors.pending_options()
    if options is None:
        # Another thread was quicker.
        return
    try:
        from .install import install

        install(**options)
        from ..core.tally import tell_at_exit
        from ..report import written

        tell_at_exit(options.get("losses"), written)
    except Exception as error:
        constructors.stand_down()
        constructors.complain(error)


def _guard_late(pool: Any) -> None:
    try:
        from .install import guard_late
    except Exception as error:
        constructors.complain(error)
    else:
        guard_late(pool)
