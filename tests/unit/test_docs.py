"""What the documentation names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import airflow_exclusive

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
ALL_TESTS = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    names, files = re.findall(r"`(test_\w+)`", text), re.findall(r"`(tests/[\w*/.]+)`", text)
    assert [name for name in names if f"def {name}(" not in ALL_TESTS] == []
    assert [name for name in files if not list(PROJECT.glob(name))] == []


def test_each_fault_names_a_test() -> None:
    """Of what happens when: the table's last column. That it is there is for the test above."""
    table = (PROJECT / "docs" / "protocol.md").read_text().partition("| fault |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    untested = [row for row in rows if not re.search(r"`(test_\w+|tests/[\w*/.]+)`", row.split("|")[-2])]
    assert len(rows) > 40
    assert untested == []


def test_the_usage_page_lists_every_public_name() -> None:
    text = (PROJECT / "docs" / "usage.md").read_text()
    assert [name for name in airflow_exclusive.__all__ if name not in text] == []
