"""Exit codes in words."""

from __future__ import annotations

import signal
import sys

import pytest

from poolwarden.core.exit_codes import describe, signal_name


@pytest.mark.parametrize(
    ("exitcode", "name", "text"),
    [
        (0, None, "exited with status 0"),
        (3, None, "exited with status 3"),
        (255, None, "exited with status 255"),
        (0xC0000005, None, "exited with status 3221225477 (0xC0000005)"),
        (None, None, "ended, exit code not known"),
        (-signal.SIGTERM, "SIGTERM", "killed by SIGTERM (exitcode -15)"),
        (-signal.SIGSEGV, "SIGSEGV", "killed by SIGSEGV (exitcode -11)"),
        (-250, "signal 250", "killed by signal 250 (exitcode -250)"),
    ],
)
def test_describe(exitcode, name, text):
    assert describe(exitcode) == (name, text)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_sigkill():
    assert describe(-9) == ("SIGKILL", "killed by SIGKILL (exitcode -9)")


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="no real-time signals here")
def test_real_time_signals():
    assert signal_name(signal.SIGRTMIN) == "SIGRTMIN"
    assert signal_name(signal.SIGRTMIN + 1) == f"signal {signal.SIGRTMIN + 1}"
