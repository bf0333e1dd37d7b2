"""The SQL files beside this module."""

from __future__ import annotations

from functools import cache

from include import FOLDER


@cache
def statement(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return (FOLDER / "sql" / f"{name}.sql").read_text(encoding="utf-8")
