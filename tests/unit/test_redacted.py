"""Messages say where, never the password."""

from __future__ import annotations

import pytest

from airflow_exclusive.stores.redacted import redacted


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://me:secret@host:6379/0", "redis://me:***@host:6379/0"),
        ("redis://:secret@host/0", "redis://:***@host/0"),
        ("rediss://:sec:ret@host/0", "rediss://:***@host/0"),
        ("postgresql://me:sec%40ret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:sec@ret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:sec/ret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        (
            "postgresql://me@host/db?password=secret&sslmode=require",
            "postgresql://me@host/db?password=***&sslmode=require",
        ),
        ("redis://host/0?username=me&password=secret", "redis://host/0?username=me&password=***"),
        ("host=h password=secret user=me", "host=h password=*** user=me"),
        (r"host=h password = 'se\'cret word' user=me", "host=h password = *** user=me"),
        ("host=h PASSWORD=secret", "host=h PASSWORD=***"),
    ],
)
def test_the_password_is_hidden_and_nothing_else(address: str, shown: str) -> None:
    assert redacted(address) == shown
