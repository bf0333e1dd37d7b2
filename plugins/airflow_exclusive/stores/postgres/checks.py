"""Is this Postgres fit to be the truth?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from airflow_exclusive.core.errors import ExclusiveError
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.statements import migrations
from airflow_exclusive.stores.redacted import redacted

OLDEST = 130000
_SKEW = 2.0
_AHEAD = 1.0
_NEARLY_FULL = 0.9
_INIT = "run `airflow-exclusive init` with the owner's connection"


def check(database: Database) -> Iterator[Finding]:
    """Everything that can be told with the role that jobs use."""
    try:
        (server,) = database.run("doctor", {})
    except ExclusiveError as error:
        yield Finding("error", "Postgres", str(error), "start it, or correct the address")
        return
    yield from _check_server(server)
    yield from _check_pooler(server, database.dsn)
    yield from _check_tables(database, server)
    if server["has_status"]:
        yield from _check_privileges(database, server["role"])
        yield from _check_jobs(database)


def _check_server(server: dict[str, Any]) -> Iterator[Finding]:
    version = f"version {server['version_text']}"
    if server["version"] < OLDEST:
        yield Finding("error", "Postgres", version, "upgrade to 13 or newer")
    else:
        yield Finding("ok", "Postgres", version)
    if server["read_only"]:
        yield Finding(
            "error", "Postgres", "is read-only (a standby?)", "name the primary: target_session_attrs=read-write"
        )
    if server["connections"] > _NEARLY_FULL * server["max_connections"]:
        text = f"{server['connections']} of {server['max_connections']} connections are in use"
        yield Finding("warning", "Postgres", text, "raise max_connections, or put a pooler in front")
    if abs(skew := server["clock"] - time.time()) > _SKEW:
        text = f"its clock is {skew:+.1f} s from this node's; leases go by its clock alone"
        yield Finding("note", "Postgres", text, "synchronise both by NTP")


def _check_pooler(server: dict[str, Any], dsn: str) -> Iterator[Finding]:
    port = urlsplit(dsn).port if "://" in dsn else None
    if port and server["server_port"] and port != server["server_port"]:
        text = f"{redacted(dsn)} leads to port {server['server_port']}: a pooler or a forwarding is in between"
        yield Finding("note", "Postgres", text, "any pool mode will do, transaction mode included")


def _check_tables(database: Database, server: dict[str, Any]) -> Iterator[Finding]:
    if not (server["has_status"] and server["has_migrations"] and server["has_functions"]):
        yield Finding("error", "schema", f"{database.schema!r} has no status tables, or not all of them", _INIT)
        return
    try:
        done = {(row["kind"], row["version"]) for row in database.run("migrations_applied", {})}
    except ExclusiveError as error:
        yield Finding("note", "schema", f"can't be compared: {error}", "grant SELECT on schema_migration")
        return
    kinds = ["status", "effects"] if server["has_effects"] else ["status"]
    missing = [f"{k} {v:04d}" for k in kinds for v, _ in migrations(k, database.schema) if (k, v) not in done]
    if missing:
        yield Finding("error", "schema", f"{database.schema!r} lacks {', '.join(missing)}", _INIT)
    else:
        yield Finding("ok", "schema", f"{database.schema!r} is up to date")


def _check_privileges(database: Database, role: str) -> Iterator[Finding]:
    lacking = [f"{row['privilege']} on {row['table']}" for row in database.run("doctor_privileges", {})]
    if lacking:
        yield Finding("error", "privileges", f"role {role!r} lacks {', '.join(lacking)}", "see docs/operations.md")
    else:
        yield Finding("ok", "privileges", f"role {role!r} has what it needs")


def _check_jobs(database: Database) -> Iterator[Finding]:
    for job in database.run("doctor_jobs", {}):
        subject = f"job {job['job_name']}"
        if (job["ahead"] or 0) > _AHEAD:
            text = f"was seen {job['ahead']:.0f} s in the future: Postgres' clock has been set back"
            yield Finding(
                "error", subject, text, "leases taken before last longer by as much; synchronise the server by NTP"
            )
        if job["longest"] and job["renewed"] is False and job["longest"] > job["lease_seconds"] / 2:
            text = f"takes {job['longest']:.0f} s, its fixed lease only {job['lease_seconds']:.0f} s"
            yield Finding("warning", subject, text, "state a longer expected_duration, or renew the lease")
        if job["takeovers"]:
            text = f"was taken over {job['takeovers']} times in the last 7 days"
            yield Finding("note", subject, text, f"airflow-exclusive history {job['job_name']!r} tells from whom")
