"""What the documents point to exists: links, their headings, and the paths that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_layers import FLOOR_OF

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for name in (
        "README.md",
        "src/README.md",
        "tests/README.md",
        "compat/README.md",
        ".github/CONTRIBUTING.md",
    )
    if (path := ROOT / name).exists()
]
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
#: A path in backticks: a folder's name before a slash, and a suffix or a slash at the end.
NAMED = re.compile(
    r"`((?:src|tests|compat|core|hosts|system|worker|activation|report|cli)/[\w./]*(?:\.\w+|/))`"
)

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(text: str) -> set[str]:
    """Return the names of a document's headings, as they are made from them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        found = path.parent / target if target else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), f"{target}#{anchor}"


@each_document
def test_paths_that_are_named_exist(path: Path) -> None:
    """From the root, the document's folder, or the package's."""
    for named in NAMED.findall(path.read_text()):
        assert any((base / named).exists() for base in (ROOT, path.parent, ROOT / "src/poolwarden")), named


def test_the_fault_table_is_whole() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "tests/README.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 35))


def test_the_picture_of_the_rooms_is_that_of_the_floors() -> None:
    picture = re.search(r"```\n(__main__.*?)```", (ROOT / "src/README.md").read_text(), re.DOTALL)
    assert picture is not None
    drawn = [
        [room for room in re.split(r"\s+", line.split("  (")[0]) if room in FLOOR_OF]
        for line in picture[1].splitlines()
    ]
    rooms = [room for line in drawn for room in line]
    assert [FLOOR_OF[room] for room in rooms] == sorted(FLOOR_OF[room] for room in rooms)
    assert set(rooms) == set(FLOOR_OF)
