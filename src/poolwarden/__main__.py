"""The command ``poolwarden``, also ``python -m poolwarden``.

Covers which commands there are and hands over to them. Each command is a
module below `poolwarden.cli`, imported only when it is asked for. argparse is
enough for them, and a dependency would be one more thing that a program which
only wants its pools guarded has to install.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from poolwarden.plaintext import visible
from poolwarden.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


#: Of ``run --fail-on-loss``: EX_TEMPFAIL of sysexits.h, "the user is invited to retry".
LOST_STATUS = 75


class _Parser(argparse.ArgumentParser):
    """A parser that answers a wrong call with the whole help."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {visible(message)}\n")


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
        ``run`` ends as its program does; with ``--fail-on-loss``, where that is
        0, with `LOST_STATUS` if a task was lost or timed out.

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
    _add_run(commands)
    own, program = _split(list(sys.argv[1:] if arguments is None else arguments))
    options = parser.parse_args(own, argparse.Namespace(program=program))
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        if options.run is _run:
            raise  # as the program would
        return 130  # the shell's number for it; a traceback would say nothing more


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments, and those of the program that is to be run: argparse would lose a "--"."""
    if arguments[:1] != ["run"]:
        return arguments, []
    end = 1
    while end < len(arguments) and arguments[end].startswith("-") and arguments[end] != "-m":
        end += 1 if "=" in arguments[end] or arguments[end] in ("-h", "--help", "--fail-on-loss") else 2
    return arguments[:end], arguments[end:]


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    run = commands.add_parser(
        "run",
        help="run a program with its pools guarded",
        usage="poolwarden run [options] (script.py | -m module) [arguments ...]",
        description="Runs a program as python would, with every pool that it makes guarded.",
    )
    run.add_argument("--timeout", metavar="S", help="seconds that a task may run")
    run.add_argument("--grace", metavar="S", help="seconds between TaskTimeoutError in the task and SIGKILL")
    run.add_argument("--retries", metavar="N", help="how often a lost task is run again")
    run.add_argument("--losses", metavar="raise|return", help="what becomes of a lost item of a call")
    run.add_argument("--startup-timeout", metavar="S", help="seconds that a worker may take to start")
    run.add_argument("--cancel-running", metavar="yes|no", help="whether a cancelled future stops its task")
    run.add_argument("--report", metavar="PATH", help="write a report there: .json or .html")
    run.add_argument(
        "--fail-on-loss",
        action="store_true",
        help=f"end with status {LOST_STATUS} instead of 0 if a task was lost or timed out",
    )
    run.set_defaults(run=_run, parser=run)


def _run(options: argparse.Namespace) -> int:
    from poolwarden import report
    from poolwarden.cli import run
    from poolwarden.options import PARSERS, read, spell

    is_module = options.program[:1] == ["-m"]
    program = options.program[is_module:]
    if not program:
        options.parser.error("a script, or -m and a module, is missing")
    given = {name: value for name in PARSERS if (value := getattr(options, name, None)) is not None}
    inherited: dict[str, Any] | None = None
    with contextlib.suppress(ValueError):  # it was told at start-up, or is replaced here
        inherited = read(os.environ.get("POOLWARDEN", ""))
    text = spell({**(inherited or {}), **given})
    try:
        read(text)
        if options.report is not None:
            report.start(options.report, always=True)
    except ValueError as error:  # a ConfigurationError is one
        options.parser.error(str(error))
    try:
        run.run(program, is_module=is_module, policy=text)
    except SystemExit as end:
        if end.code not in (None, 0) or not options.fail_on_loss:
            raise
    return LOST_STATUS if options.fail_on_loss and _has_losses() else 0


def _has_losses() -> bool:
    # If it is not loaded no pool was guarded, and the program need not pay for its import.
    tally = sys.modules.get("poolwarden.core.tally")
    return tally is not None and bool(tally.has_losses())


def _demo(options: argparse.Namespace) -> int:
    from poolwarden.cli import demo

    return demo.run(sys.stdout)


def _doctor(options: argparse.Namespace) -> int:
    from poolwarden.cli import doctor

    return doctor.run(sys.stdout, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
