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


def test_the_protocol_names_its_tests() -> None:
    assert len(re.findall(r"`test_\w+`", (PROJECT / "docs" / "protocol.md").read_text())) > 15


def test_the_usage_page_lists_every_public_name() -> None:
    text = (PROJECT / "docs" / "usage.md").read_text()
    assert [name for name in airflow_exclusive.__all__ if name not in text] == []
