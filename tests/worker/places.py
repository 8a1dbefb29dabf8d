"""Small file systems, to be filled: real ones, on which the kernel says that there is no room.

A `tmpfs` of a few pages; mounting it takes root, so tests that need one are
skipped elsewhere.
"""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = mmap.PAGESIZE


@contextmanager
def mounted(place: Path, pages: int) -> Iterator[str]:
    """Give a folder that has room for so many pages of files."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes Linux and root")
    place.mkdir()
    options = f"size={pages * PAGE},mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if made.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {made.stderr.strip()}")
    try:
        yield str(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


def fill(place: str, leave: int = 0) -> None:
    """Leave room for `leave` pages in a small place."""
    path = f"{place}/filling"
    with open(path, "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        file.truncate(file.tell() - leave * PAGE)
