"""Is this Postgres fit to be the truth?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from airflow_exclusive.core.errors import ExclusiveError, StoreMisconfigured, StoreUnavailable
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.core.names import UNNAMED
from airflow_exclusive.core.timing import TrustWindow
from airflow_exclusive.stores.postgres.database import Database, ErrorsMapped
from airflow_exclusive.stores.postgres.statements import function_bodies, migrations

OLDEST = 130000
_SKEW = 2.0
_AHEAD = 1.0
_NEARLY_FULL = 0.9
_INIT = "run `airflow-exclusive init` with the owner's connection"
_SYNCHRONOUS = "see docs/operations.md, PostgreSQL"

# Leases that are worth a word: longer or shorter than most jobs want, and out of proportion to what the job takes.
_LONG, _TIMES_TOO_LONG = 60.0, 10
_SHORT, _TIMES_TOO_SHORT = 30.0, 100

_JOBS_AT_A_TIME = 1000
"""With a history each takes a millisecond or two, and an answer isn't waited for beyond a limit."""


def check(database: Database, *, gate_ahead: Callable[[], float | None] = lambda: None) -> Iterator[Finding]:
    """Everything that can be told with the role that jobs use.

    gate_ahead: seconds by which Redis' clock is ahead of this node's; asked for when Postgres' is, or is behind.
    """
    try:
        (server,) = database.run("doctor", {})
    except StoreMisconfigured as error:
        yield Finding("error", "Postgres", str(error), "correct the login, or GRANT the role what it lacks")
        return
    except ExclusiveError as error:
        yield Finding("error", "Postgres", str(error), "start it, correct the address, or make room for connections")
        return
    yield from _check_server(server)
    yield from _check_clock(server["clock"] - time.time(), gate_ahead)
    yield from _check_durability(server)
    yield from _check_pooler(database)
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
    if server["connections"] > _NEARLY_FULL * server["usable_connections"]:
        text = f"{server['connections']} of {server['usable_connections']} connections are in use"
        yield Finding("warning", "Postgres", text, "raise max_connections, or put a pooler in front")


def _check_clock(skew: float, gate_ahead: Callable[[], float | None]) -> Iterator[Finding]:
    """Whose clock is right can't be told; that of three two agree, can."""
    if abs(skew) <= _SKEW:
        return
    text = f"its clock is {skew:+.1f} s from this node's"
    gate = gate_ahead()
    if gate is None or abs(gate) > _SKEW:
        yield Finding("note", "Postgres", f"{text}; leases go by its clock alone", "synchronise both by NTP")
        return
    text += f", and Redis' is within {_SKEW:g} s of it: if Postgres' is set right at once, leases "
    text += "last longer by as much" if skew > 0 else "that are alive seem to have lapsed"
    yield Finding("warning", "Postgres", text, "synchronise the server by NTP, slowly (slew) while jobs run")


def _check_durability(server: dict[str, Any]) -> Iterator[Finding]:
    """Whether what is confirmed can be lost: then its tick may run twice, and its token be issued again."""
    commit, names, standbys = (server[k] for k in ("synchronous_commit", "synchronous_standby_names", "standbys"))
    lost = "claims, successes and tokens of the last moments: such a tick may run twice"
    if commit == "off":
        text = f"synchronous_commit is off: a crash of the server loses {lost}"
        yield Finding("warning", "Postgres", text, f"ALTER ROLE … SET synchronous_commit = on; {_SYNCHRONOUS}")
    elif names and commit == "local":
        text = f"synchronous_commit is local, which waits for no standby: a failover loses {lost}"
        yield Finding("warning", "Postgres", text, f"ALTER ROLE … SET synchronous_commit = on; {_SYNCHRONOUS}")
    elif standbys and not names:
        text = f"standbys ({standbys}) follow, and no commit waits for them: a failover loses {lost}"
        yield Finding("warning", "Postgres", text, f"set synchronous_standby_names; {_SYNCHRONOUS}")


def _check_pooler(database: Database) -> Iterator[Finding]:
    from airflow_exclusive.stores.postgres import pooler

    database.close()  # it opens again when it is asked; a pool may have room for two alone
    try:
        with ErrorsMapped(database.dsn, database.schema):
            mode = pooler.mode(database.dsn)
    except ExclusiveError as error:
        yield Finding("note", "pooler", f"whether there is one can't be told: {error}")
        return
    if mode == "none":
        yield Finding("ok", "pooler", "none is noticed: the process that is connected to is the one that answers")
    elif mode == "statement":
        text = "in statement mode: it breaks off transactions, which lease.transaction() and `init` are made of"
        yield Finding("error", "pooler", text, "set pool_mode to transaction or session")
    elif mode == "transaction":
        yield Finding("ok", "pooler", "in transaction mode, which will do")
    elif mode == "session":
        text = "in session mode as far as can be seen: two connections have each kept a process of their own"
        yield Finding("ok", "pooler", f"{text}; that or transaction mode will do")
    else:
        text = "there is one, its mode can't be told: it left a connection without an answer while another was open"
        cure = "give it room for more connections; its pool_mode must be transaction or session"
        yield Finding("warning", "pooler", text, cure)


def _check_tables(database: Database, server: dict[str, Any]) -> Iterator[Finding]:
    if not (server["has_status"] and server["has_migrations"]):
        yield Finding("error", "schema", f"{database.schema!r} has no status tables, or not all of them", _INIT)
        return
    try:
        found = {(row["name"], row["body"]) for row in database.run("doctor_functions", {})}
    except ExclusiveError as error:
        yield _unseen("schema", "its functions can't be looked at", error)
        return
    wrong = [name for name, body in function_bodies(database.schema).items() if (name, body) not in found]
    if wrong:
        text = f"{database.schema!r} lacks this release's {', '.join(wrong)}(): none, or of another release"
        yield Finding("error", "schema", text, f"{_INIT}, and run one release everywhere")
        return
    try:
        done = {(row["kind"], row["version"]) for row in database.run("migrations_applied", {})}
    except ExclusiveError as error:
        yield _unseen("schema", "can't be compared", error, "grant SELECT on schema_migration")
        return
    kinds = ["status", "effects"] if server["has_effects"] else ["status"]
    missing = [f"{k} {v:04d}" for k in kinds for v, _ in migrations(k, database.schema) if (k, v) not in done]
    if missing:
        yield Finding("error", "schema", f"{database.schema!r} lacks {', '.join(missing)}", _INIT)
    else:
        yield Finding("ok", "schema", f"{database.schema!r} is up to date")


def _check_privileges(database: Database, role: str) -> Iterator[Finding]:
    try:
        lacking = [f"{row['privilege']} on {row['object']}" for row in database.run("doctor_privileges", {})]
    except ExclusiveError as error:
        yield _unseen("privileges", "can't be looked at", error)
        return
    if lacking:
        yield Finding("error", "privileges", f"role {role!r} lacks {', '.join(lacking)}", "see docs/operations.md")
    else:
        yield Finding("ok", "privileges", f"role {role!r} has what it needs")


def _check_jobs(database: Database) -> Iterator[Finding]:
    try:
        jobs = list(_jobs(database))
    except ExclusiveError as error:
        yield _unseen("jobs", "can't be looked at", error)
        return
    for job in jobs:
        subject = f"job {job['job_name']}"
        if (job["ahead"] or 0) > _AHEAD:
            text = f"was seen {job['ahead']:.0f} s in the future: Postgres' clock has been set back"
            yield Finding(
                "error", subject, text, "leases taken before last longer by as much; synchronise the server by NTP"
            )
        if (job["set_back"] or 0) > _AHEAD:
            text = f"the attempt with token {job['set_back_token']} began {job['set_back']:.0f} s before the end of the"
            text += " one before it: Postgres' clock was set back in between"
            yield Finding("warning", subject, text, "synchronise the server by NTP")
        if job["longest"] is not None and job["lease_seconds"] is not None:
            yield from _check_length(subject, job["longest"], job["lease_seconds"], job["renewed"])
        if job["takeovers"]:
            text = f"was taken over {job['takeovers']} times in the last 7 days"
            yield Finding("note", subject, text, f"airflow-exclusive history {job['job_name']!r} tells from whom")
    if any(job["deployment"] == UNNAMED for job in jobs):
        text = "Airflow asks without a name: a second deployment that does so takes the first one's tasks for its own"
        yield Finding("note", "deployment", text, "set [exclusive] deployment before another one shares these stores")


def _jobs(database: Database) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        jobs = database.run("doctor_jobs", {"after": after, "limit": _JOBS_AT_A_TIME})
        yield from jobs
        if len(jobs) < _JOBS_AT_A_TIME:
            return
        after = jobs[-1]["job_name"]


def _unseen(subject: str, text: str, error: ExclusiveError, cure: str = "") -> Finding:
    """A server that gives no answer gives none to jobs; one that refuses it to doctor may."""
    if isinstance(error, StoreUnavailable):
        return Finding("error", subject, f"{text}: {error}", "see what it waits for in pg_stat_activity")
    return Finding("note", subject, f"{text}: {error}", cure)


def _check_length(subject: str, longest: float, lease: float, renewed: bool) -> Iterator[Finding]:
    """A lease against what the job was seen to take, both in seconds."""
    takes = f"takes {longest:.0f} s"
    if not renewed and longest > lease / 2:
        text = f"{takes}, its fixed lease only {lease:.0f} s"
        yield Finding("warning", subject, text, "state a longer expected_duration, or renew the lease")
    elif lease > max(_LONG, _TIMES_TOO_LONG * longest):
        text = f"{takes}, but a node that dies with it is replaced only after {lease:.0f} s"
        yield Finding("note", subject, text, "a shorter lock_ttl will do" if renewed else "state its expected_duration")
    elif renewed and lease < _SHORT and longest > _TIMES_TOO_SHORT * lease:
        window = TrustWindow(lease, confirmed=0.0)
        text = f"{takes}, and {window.stop_at - window.renew_at:.1f} s without Postgres are enough to end it"
        yield Finding("note", subject, text, f"its lock_ttl is {lease:.0f} s: a longer one survives more")
