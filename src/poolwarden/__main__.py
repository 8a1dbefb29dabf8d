"""The command ``poolwarden``, also ``python -m poolwarden``.

Covers which commands there are and hands over to them. Each command is a
module below `poolwarden.cli`, imported only when it is asked for.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

from poolwarden import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Parser(argparse.ArgumentParser):
    """A parser that answers a wrong call with the whole help."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status of the command that `arguments` name.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the program's name; None: `sys.argv`.

    Returns
    -------
    int
        0 if the command did what it promises, 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        With status 2 and the help on stderr for an unknown command or option;
        with status 0 after ``--help`` and ``--version``.
    """
    parser = _Parser(prog="poolwarden", description="Guards process pools against lost and stuck workers.")
    parser.add_argument("--version", action="version", version=f"poolwarden {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    demo = commands.add_parser("demo", help="show what a guarded pool survives, on real processes")
    demo.description = (
        "Loses tasks in five ways, without and with the guard, in real processes, within a minute. "
        "The exit status is 0 if every guarded case did what was promised."
    )
    demo.set_defaults(run=_demo)
    doctor = commands.add_parser("doctor", help="show what can be guarded here, for a bug report")
    doctor.description = (
        "Shows which hosts are installed and whether they can be guarded, what this system lets the guard "
        "do, and whether POOLWARDEN is active. The exit status is 0 if every installed host can be guarded."
    )
    doctor.add_argument("--json", action="store_true", help="as one JSON object")
    doctor.set_defaults(run=_doctor)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130  # the shell's number for it; a traceback would say nothing more


def _demo(options: argparse.Namespace) -> int:
    from poolwarden.cli import demo

    return demo.run(sys.stdout)


def _doctor(options: argparse.Namespace) -> int:
    from poolwarden.cli import doctor

    return doctor.run(sys.stdout, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
