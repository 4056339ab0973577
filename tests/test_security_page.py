"""docs/security.md and SECURITY.md name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = ("docs/security.md", "SECURITY.md")

NAMED = re.compile(r"`((?:tests|e2e)/[\w/]+\.py)(?:::(test_\w+))?`")
"""A test file in a code span, with a test of it."""


def named(page: str) -> list[tuple[str, str]]:
    """Files and tests that the page names; the test is empty where it names the file alone."""
    return NAMED.findall((REPOSITORY / page).read_text())


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    found = named(page)
    assert len(found) > 10
    missing = [
        f"{file}::{test}"
        for file, test in found
        if not (REPOSITORY / file).exists()
        or (test and not re.search(rf"def {test}\(", (REPOSITORY / file).read_text()))
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files(page: str) -> None:
    path = REPOSITORY / page
    links = {link for link in re.findall(r"\]\(([^)#]+)", path.read_text()) if "://" not in link}
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_finding_names_a_test() -> None:
    rows = re.findall(r"^\| \d+ \|.*$", (REPOSITORY / "docs" / "security.md").read_text(), re.MULTILINE)
    assert len(rows) > 25
    assert [row for row in rows if not NAMED.search(row) and "| open: " not in row] == []
