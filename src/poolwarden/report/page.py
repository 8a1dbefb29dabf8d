"""The report as one page."""

from __future__ import annotations

from typing import Any


def render(report: dict[str, Any]) -> str:
    """Return the page."""
    return f"<!doctype html><title>{report['schema']}</title>"
