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
            "postgresql://me@host/db?password=***",
        ),
        ("postgresql://me:sec ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec\nret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec?password=r@et@host/db", "postgresql://me:***"),
        ("postgresql://host/db?password=sec:r@et", "postgresql://host/db?password=***"),
        ("postgresql://me@host:5432/db?options=a@b", "postgresql://me@host:5432/db?options=a@b"),
        ("postgres//me:secret@host/db", "postgres//me:***@host/db"),
        ("postgres:me:sec@ret@host/db", "postgres:***@host/db"),
        ("host:6379", "host:6379"),
        ("host=h password=sec ret", "host=h password=***"),
        ("host=h password='sec ret user=me", "host=h password=***"),
        (r"host=h password=sec\ ret user='m e'", r"host=h password=*** user='m e'"),
        ("host=h password=s:ec@ret user=me", "host=h password=*** user=me"),
        ("host=h password=sec ret=x user=me", "host=h password=***"),
        ("redis://host/0?username=me&password=secret", "redis://host/0?username=me&password=***"),
        ("host=h password=secret user=me", "host=h password=*** user=me"),
        (r"host=h password = 'se\'cret word' user=me", "host=h password = *** user=me"),
        ("host=h PASSWORD=secret", "host=h PASSWORD=***"),
    ],
)
def test_the_password_is_hidden_and_nothing_else(address: str, shown: str) -> None:
    assert redacted(address) == shown
