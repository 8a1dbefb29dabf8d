"""What an exit code says: the name of the signal, and a few words for people.

Covers `multiprocessing`'s convention (negative is minus the signal number).
Does not guess why. Pure functions; the parent process, any thread.
"""

from __future__ import annotations

import signal

__all__ = ["describe", "signal_name"]


def describe(exitcode: int | None) -> tuple[str | None, str]:
    """Return the signal's name, if one ended the worker, and a description.

    Parameters
    ----------
    exitcode : int or None
        As `multiprocessing.Process.exitcode`; None if it could not be learnt.

    Returns
    -------
    tuple of (str or None, str)
        ``("SIGKILL", "killed by SIGKILL (exitcode -9)")`` or
        ``(None, "exited with status 3")``.
    """
    if exitcode is None:
        return None, "ended, exit code not known"
    if exitcode < 0:
        name = signal_name(-exitcode)
        return name, f"killed by {name} (exitcode {exitcode})"
    # Windows reports crashes as large statuses that people know in hexadecimal (0xC0000005).
    return None, f"exited with status {exitcode}" + (f" (0x{exitcode:08X})" if exitcode > 0xFFFF else "")


def signal_name(number: int) -> str:
    """Return ``"SIGKILL"`` for 9; ``"signal 35"`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals between SIGRTMIN and SIGRTMAX, or another system's number
        return f"signal {number}"
