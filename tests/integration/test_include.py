"""What the sample jobs do, on a real database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
import pytest

from airflow_exclusive.inherited import InheritedLease
from include import flights

JANUARY_FIRST = date(2013, 1, 1)
DEPARTED_THEN = 842
TICK = "2013-01-02T00:00:00Z"


@pytest.fixture(scope="module")
def loaded(postgres_server: Any) -> Iterator[str]:
    """Name of a database with the flights and the tables of effects, to copy."""
    from airflow_exclusive.stores.postgres import schema

    name = f"exclusive_flights_{os.getpid()}"
    dsn = postgres_server.create_database(name)
    schema.upgrade(dsn)
    with psycopg.connect(dsn) as conn:
        assert flights.load_flights(conn) == flights.FLIGHTS
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def warehouse(postgres_server: Any, loaded: str) -> Iterator[str]:
    name = f"{loaded}_copy"
    yield postgres_server.create_database(name, template=loaded)
    postgres_server.drop_database(name)


@dataclass
class _Lease(InheritedLease):
    """A lease as a child process has it."""


def lease(token: int = 1, run_key: str = TICK) -> InheritedLease:
    return InheritedLease("flights_rollup", run_key, 1, token)


def counted(conn: Any, table: str = "flights_by_day") -> dict[date, int]:
    with conn.cursor() as cursor:
        cursor.execute(f"SELECT day, flights FROM {table} ORDER BY day")
        return dict(cursor.fetchall())
