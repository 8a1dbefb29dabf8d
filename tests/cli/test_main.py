"""The command line as a whole."""

from __future__ import annotations

import pytest

import poolwarden
from poolwarden.__main__ import main


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["demo", "--no-such-option"]], ids=str)
def test_a_wrong_call_is_answered_with_the_help(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)

    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("usage: poolwarden")
    assert "--help" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"poolwarden {poolwarden.__version__}\n"
