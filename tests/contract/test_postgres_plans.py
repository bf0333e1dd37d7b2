"""No lookup on the way to an admission, or for a page of the UI, reads the whole ledger, however long it has become."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.stores.postgres import schema
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, statement
from airflow_exclusive.stores.postgres.statuses import params_of
from deploy.embedded.postgres import PostgresServer
from tests.support.ledger import TASK, request

ATTEMPTS = 100_000
JOBS = 20
_TIMES = 8
"""A function's statements get a generic plan after five uses: both kinds are looked at."""
_FEW = 5

_HISTORY = f"""
INSERT INTO {DEFAULT_SCHEMA}.scheduled_job_run (job_name, run_key, generation, attempt, fencing_token, owner, node_id,
    outcome, started_at, finished_at, lease_seconds, renewed)
SELECT 'job ' || n %% %(jobs)s, 'tick ' || n / %(jobs)s, 1, 1, n / %(jobs)s + 1, 'owner ' || n, 'node', 'success',
    now() - interval '1 day', now() - interval '1 day', 30, true
FROM generate_series(0, %(attempts)s - 1) AS n;
INSERT INTO {DEFAULT_SCHEMA}.scheduled_job_refusal (job_name, run_key, reason, node_id, owner, refused_at, detail)
SELECT 'job ' || n %% %(jobs)s, 'tick ' || n / %(jobs)s, 'busy', 'node', 'refused ' || n, now() - interval '1 day', ''
FROM generate_series(0, %(attempts)s / 5 - 1) AS n;
INSERT INTO {DEFAULT_SCHEMA}.scheduled_job_status (job_name, status, owner, fencing_token, run_key, generation, attempt)
SELECT DISTINCT ON (job_name) job_name, 'success', owner, fencing_token, run_key, generation, attempt
FROM {DEFAULT_SCHEMA}.scheduled_job_run ORDER BY job_name, fencing_token DESC;
ANALYZE {DEFAULT_SCHEMA}.scheduled_job_run, {DEFAULT_SCHEMA}.scheduled_job_status,
    {DEFAULT_SCHEMA}.scheduled_job_refusal;
"""
_READ = """
SELECT sum(seq_scan), sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables
WHERE relname IN ('scheduled_job_run', 'scheduled_job_refusal')
"""


@pytest.fixture(scope="module")
def full_database(postgres_server: PostgresServer) -> Iterator[str]:
    """DSN of a ledger with a history, the same for all tests here."""
    name = f"exclusive_test_{uuid.uuid4().hex[:12]}"
    dsn = postgres_server.create_database(name)
    schema.upgrade(dsn)
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor) as opened:
        opened.execute(_HISTORY, {"jobs": JOBS, "attempts": ATTEMPTS})
    yield dsn
    postgres_server.drop_database(name)


@pytest.fixture
def full(full_database: str) -> Iterator[psycopg.Connection]:
    """A connection that has read nothing yet; what is written on it is undone."""
    with psycopg.connect(full_database, cursor_factory=psycopg.ClientCursor) as opened:
        yield opened
        opened.rollback()


def assert_little_was_read(connection: psycopg.Connection, *, statements: int, shown: int = 0) -> None:
    """In this transaction: no whole reads of the ledger, and of its rows those shown and a few for each statement."""
    (whole, rows) = connection.execute(_READ).fetchone() or ()
    assert whole == 0
    assert rows <= _FEW * statements + shown


def asked(run_key: str, number: int) -> dict[str, Any]:
    made = request(run_key, job=f"job {number % JOBS}", source=TASK)
    settings = LeaseSettings()
    return {**params_of(made), "ttl": settings.seconds, "renew": settings.renew, "now": None}


@pytest.mark.parametrize("run_key", ["tick 77", "a new tick"])
def test_a_claim_uses_indexes(full: psycopg.Connection, run_key: str) -> None:
    for number in range(_TIMES):
        full.execute(statement("claim", DEFAULT_SCHEMA), asked(run_key, number))
    assert_little_was_read(full, statements=_TIMES)


def test_a_takeover_uses_indexes(full: psycopg.Connection) -> None:
    for number in range(_TIMES):
        full.execute(statement("claim", DEFAULT_SCHEMA), asked("a lost tick", number))
    full.execute(f"UPDATE {DEFAULT_SCHEMA}.scheduled_job_status SET lease_expires_at = now() - interval '1 s'")
    for number in range(_TIMES):
        (row,) = full.execute(statement("claim", DEFAULT_SCHEMA), asked("a new tick", number)).fetchall()
        assert row[0][-1] == 1, "it took over"
    assert_little_was_read(full, statements=2 * _TIMES)


@pytest.mark.parametrize("verb", ["finish", "confirm", "release", "refuse", "renew", "held", "left_behind"])
def test_what_comes_after_a_claim_uses_indexes(full: psycopg.Connection, verb: str) -> None:
    token = f"SELECT fencing_token FROM {DEFAULT_SCHEMA}.scheduled_job_status WHERE job_name = %s"
    for number in range(_TIMES):
        params = {**asked("a new tick", number), "outcome": "success", "error": None, "result": None}
        params |= {"hold_at_least": 0, "seconds_left": 60.0, "longest": 30.0}
        full.execute(statement("claim", DEFAULT_SCHEMA), params)
        (params["fencing_token"],) = full.execute(token, [params["job_name"]]).fetchone() or ()
        full.execute(statement(verb, DEFAULT_SCHEMA), {**params, "reason": "busy", "detail": ""})
    assert_little_was_read(full, statements=2 * _TIMES)


def test_a_finish_reads_none_of_the_other_running_attempts(database: str) -> None:
    """In a ledger that was never analyzed, where an index seems as good as any other."""
    running = 300
    with psycopg.connect(database, cursor_factory=psycopg.ClientCursor) as claiming:
        for number in range(running):
            made = {**params_of(request("tick", job=f"job {number}", source=TASK)), "owner": f"owner {number}"}
            claiming.execute(statement("claim", DEFAULT_SCHEMA), {**made, "ttl": 30, "renew": True, "now": None})
    with psycopg.connect(database, cursor_factory=psycopg.ClientCursor) as finishing:
        for number in range(_TIMES):
            own = {"job_name": f"job {number}", "owner": f"owner {number}", "fencing_token": 1, "outcome": "success"}
            other = {"error": None, "result": None, "hold_at_least": 0, "now": None}
            (row,) = finishing.execute(statement("finish", DEFAULT_SCHEMA), {**own, **other}).fetchall()
            assert row == ("success",)
        assert_little_was_read(finishing, statements=_TIMES)


@pytest.mark.parametrize("run_key", ["tick 77", "a new tick"])
def test_a_look_uses_indexes(full: psycopg.Connection, run_key: str) -> None:
    params = asked(run_key, 7)
    full.execute(statement("look", DEFAULT_SCHEMA), params)
    assert_little_was_read(full, statements=1)
    (plan,) = full.execute(f"EXPLAIN (FORMAT JSON) {statement('look', DEFAULT_SCHEMA)}", params).fetchone() or ()
    ledger = [node for node in walk(plan[0]["Plan"]) if node.get("Relation Name") == "scheduled_job_run"]
    assert ledger
    assert "Seq Scan" not in {node["Node Type"] for node in ledger}


@pytest.mark.parametrize(
    ("verb", "asked_for", "shown"),
    [
        ("status", {"job_name": None, "search": None, "after": "", "limit": 500}, JOBS),
        ("status", {"job_name": "job 7", "search": None, "after": None, "limit": None}, 1),
        ("history", {"job_name": "job 7", "run_key": None, "before": None, "limit": 50}, 50),
        ("history", {"job_name": "job 7", "run_key": None, "before": 2000, "limit": 50}, 50),
        ("refusals", {"job_name": "job 7", "run_key": None, "limit": 50}, 50),
    ],
)
def test_a_page_reads_what_it_shows(full: psycopg.Connection, verb: str, asked_for: dict[str, Any], shown: int) -> None:
    rows = full.execute(statement(verb, DEFAULT_SCHEMA), {"now": None, **asked_for}).fetchall()
    assert len(rows) == shown
    assert_little_was_read(full, statements=1, shown=shown)


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)
