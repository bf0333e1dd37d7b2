"""The databases of docker-compose.yml, their roles with the passwords of the environment, and the package's tables.

Runs as PostgreSQL's superuser, before everything else. Safe to repeat: that is how passwords and the package's tables
are brought up to date. The privileges are those of docs/operations.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from airflow_exclusive.stores.postgres.schema import upgrade

ROLES = {
    "airflow": "AIRFLOW_DB_PASSWORD",
    "airflow_mini": "MINI_DB_PASSWORD",
    "exclusive_owner": "EXCLUSIVE_OWNER_PASSWORD",
    "exclusive_runtime": "EXCLUSIVE_RUNTIME_PASSWORD",
    "warehouse": "WAREHOUSE_PASSWORD",
}
"""Role -> the variable that has its password."""

DATABASES = {
    "airflow": "airflow",
    "airflow_mini": "airflow_mini",
    "exclusive": "exclusive_owner",
    "warehouse": "warehouse",
}
"""Database -> its owner."""

_EFFECTS = {
    "schema_migration": "SELECT",
    "scheduled_job_fence": "SELECT, INSERT, UPDATE",
    "scheduled_job_effect": "SELECT, INSERT",
}
_STATUS = {
    "scheduled_job_status": "SELECT, INSERT, UPDATE",
    "scheduled_job_run": "SELECT, INSERT, UPDATE",
    "scheduled_job_refusal": "SELECT, INSERT",
    **_EFFECTS,
}


def prepare(server: str, passwords: Mapping[str, str]) -> None:
    """Make, or bring up to date, what is in `ROLES` and `DATABASES`; `server` is a superuser's DSN."""
    with psycopg.connect(server, autocommit=True) as conn:
        for role, variable in ROLES.items():
            _ensure_role(conn, role, passwords[variable])
        for database, owner in DATABASES.items():
            _ensure_database(conn, database, owner)
        conn.execute("GRANT CONNECT ON DATABASE exclusive TO exclusive_runtime")
        conn.execute("GRANT CONNECT, CREATE ON DATABASE warehouse TO exclusive_owner")
    as_owner = make_conninfo(server, user="exclusive_owner", password=passwords[ROLES["exclusive_owner"]])
    _install(make_conninfo(as_owner, dbname="exclusive"), "exclusive_runtime", _STATUS, status=True)
    _install(make_conninfo(as_owner, dbname="warehouse"), "warehouse", _EFFECTS, status=False)


def _ensure_role(conn: psycopg.Connection, role: str, password: str) -> None:
    name = sql.Identifier(role)
    if conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount == 0:
        conn.execute(sql.SQL("CREATE ROLE {}").format(name))
    conn.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))


def _ensure_database(conn: psycopg.Connection, database: str, owner: str) -> None:
    name = sql.Identifier(database)
    if conn.execute("SELECT FROM pg_database WHERE datname = %s", [database]).rowcount == 0:
        conn.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, sql.Identifier(owner)))
    conn.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))


def _install(dsn: str, runtime: str, privileges: Mapping[str, str], *, status: bool) -> None:
    """The package's tables, as their owner, and what `runtime` may do with them."""
    upgrade(dsn, status=status)
    role = sql.Identifier(runtime)
    with psycopg.connect(dsn) as conn:
        for granted in ("USAGE ON SCHEMA", "EXECUTE ON ALL FUNCTIONS IN SCHEMA"):
            conn.execute(sql.SQL("GRANT {} exclusive TO {}").format(sql.SQL(granted), role))
        for table, granted in privileges.items():
            target = sql.Identifier("exclusive", table)
            conn.execute(sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(granted), target, role))


if __name__ == "__main__":
    prepare(make_conninfo(user="postgres", password=os.environ["POSTGRES_PASSWORD"], dbname="postgres"), os.environ)
    print(f"ready: {', '.join(DATABASES)}")
