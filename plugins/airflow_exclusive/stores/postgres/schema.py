"""Create and upgrade the tables: numbered migrations, applied once, safe to start on two nodes at once."""

from __future__ import annotations

from typing import Any

from airflow_exclusive.stores.postgres.address import check_address
from airflow_exclusive.stores.postgres.database import ErrorsMapped
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, check_schema, functions, migrations, statement


def upgrade(dsn: str, *, schema: str = DEFAULT_SCHEMA, status: bool = True, effects: bool = True) -> list[str]:
    """Bring the tables up to date and give the names of the migrations that were applied now.

    status: the status tables, for the one status database.
    effects: the marks and fences, for every database that receives a job's effects.
    """
    import psycopg

    check_address(dsn)
    check_schema(schema)
    applied = []
    options: dict[str, Any] = {"connect_timeout": 5, "prepare_threshold": None, "client_encoding": "UTF8"}
    with ErrorsMapped(dsn, schema), psycopg.connect(dsn, **options) as connection:
        # Ends with the transaction, so it works behind a pooler; everything below is one transaction.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"airflow-exclusive {schema}"])
        if not connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).rowcount:
            connection.execute(_create_schema(schema).encode())
        connection.execute(statement("migration_history", schema).encode())
        done = set(connection.execute(statement("migrations_applied", schema).encode()).fetchall())
        for kind, version, text in _wanted(schema, status, effects):
            if (kind, version) not in done:
                connection.execute(text.encode())
                note = statement("migration_applied", schema).encode()
                connection.execute(note, {"kind": kind, "version": version})
                applied.append(f"{kind} {version:04d}")
        if status:
            for text in functions(schema):
                connection.execute(text.encode())
    return applied


def script(*, schema: str = DEFAULT_SCHEMA, status: bool = True, effects: bool = True) -> str:
    """All of it as text, for those who run the statements on a new database by hand."""
    parts = [_create_schema(schema), statement("migration_history", schema).strip()]
    for kind, version, text in _wanted(schema, status, effects):
        note = statement("migration_applied", schema) % {"kind": f"'{kind}'", "version": version}
        parts += [text.strip().rstrip(";"), note.strip()]
    parts += [text.strip().rstrip(";") for text in functions(schema) if status]
    return "".join(f"{part};\n\n" for part in ["BEGIN", *parts, "COMMIT"])


def _wanted(schema: str, status: bool, effects: bool) -> list[tuple[str, int, str]]:
    kinds = [kind for kind, wanted in (("status", status), ("effects", effects)) if wanted]
    return [(kind, version, text) for kind in kinds for version, text in migrations(kind, schema)]


def _create_schema(schema: str) -> str:
    return f'CREATE SCHEMA "{check_schema(schema)}"'
