"""Connections to the database that the sample jobs read and write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

CONN_ID = "warehouse"


@contextmanager
def from_airflow() -> Iterator[Any]:
    """A connection through Airflow's connection `warehouse`: psycopg2 in Airflow 2, psycopg 3 in Airflow 3."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    with closing(PostgresHook(postgres_conn_id=CONN_ID).get_conn()) as connection:
        yield connection


@contextmanager
def from_address(dsn: str) -> Iterator[Any]:
    """A connection for whoever runs the job without Airflow."""
    import psycopg

    with closing(psycopg.connect(dsn)) as connection:
        yield connection
