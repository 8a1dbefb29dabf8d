"""Every program in the README does what the README shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

#: A program, and the first block behind it, which is what it prints.
SNIPPETS = re.findall(r"```python\n(.*?)```.*?```(?:\w*)\n(.*?)```", TEXT, re.DOTALL)

#: What differs from run to run, and what takes its place.
VARIABLE = (
    (r"Worker \d+", "Worker N"),
    (r'"?(/\S*/)?\w+\.py"?:\d+', "FILE:LINE"),
    (r"\d+(\.\d+)? m?s\b", "T"),
)


def normal(text: str) -> list[str]:
    """Return the lines of `text` without what differs from run to run."""
    for pattern, name in VARIABLE:
        text = re.sub(pattern, name, text)
    return [line.rstrip() for line in text.strip().splitlines()]


def test_there_are_some() -> None:
    assert len(SNIPPETS) >= 3
    assert len(SNIPPETS) == TEXT.count("```python")


@pytest.mark.parametrize(("code", "shown"), SNIPPETS, ids=lambda text: text.strip().splitlines()[0][:30])
def test_a_program_prints_what_is_shown(tmp_path: Path, code: str, shown: str) -> None:
    if "joblib" in code:
        pytest.importorskip("joblib")
    (tmp_path / "show.py").write_text(code)
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))

    ran = subprocess.run(
        [sys.executable, "show.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )

    if ran.returncode == 0:
        assert normal(ran.stdout) == normal(shown), ran.stderr
    else:
        # Of a traceback the README shows the end.
        assert normal(ran.stderr)[-len(normal(shown)) :] == normal(shown), ran.stderr
