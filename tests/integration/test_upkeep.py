"""What keeps the stores fit: doctor, purge, and the tables by hand."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result
from psycopg import sql

from airflow_exclusive import Admitted, JobGuard
from airflow_exclusive.cli.commands import cli
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.purge import purge
from airflow_exclusive.stores.postgres.schema import script, upgrade
from tests.support.ledger import JOB, Ledger, request
from tests.support.waiting import eventually


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def doctor(redis_url: str, dsn: str) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and what was found at each level."""
    done = run("doctor", "--redis", redis_url, "--postgres", dsn, "--json")
    found: dict[str, list[str]] = {}
    for finding in json.loads(done.output):
        found.setdefault(finding["level"], []).append(f"{finding['subject']}: {finding['text']}")
    return done.exit_code, found


# doctor


def test_a_sound_pair_of_stores_has_no_complaints(redis_url: str, database: str) -> None:
    status, found = doctor(redis_url, database)
    assert status == 0
    assert set(found) <= {"ok", "note"}
    assert any("is up to date" in text for text in found["ok"])


def test_people_see_the_cure(redis_url: str, empty_database: str) -> None:
    done = run("doctor", "--redis", redis_url, "--postgres", empty_database)
    assert done.exit_code == 1
    assert "has no status tables" in done.output
    assert "airflow-exclusive init" in done.output


def test_a_migration_that_is_missing_is_named(redis_url: str, database: str, connection: psycopg.Connection) -> None:
    connection.execute("DELETE FROM exclusive.schema_migration WHERE kind = 'status'")
    status, found = doctor(redis_url, database)
    assert (status, found["error"]) == (1, ["schema: 'exclusive' lacks status 0001"])


def test_servers_that_do_not_answer_are_errors(redis_url: str, database: str) -> None:
    nowhere = "127.0.0.1:1"
    assert [line[:5] for line in doctor(f"redis://{nowhere}/0", database)[1]["error"]] == ["Redis"]
    assert [line[:8] for line in doctor(redis_url, f"postgresql://{nowhere}/x")[1]["error"]] == ["Postgres"]


def test_an_eviction_policy_that_drops_locks_is_a_warning(redis_url: str, database: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            status, found = doctor(redis_url, database)
        finally:
            client.config_set("maxmemory-policy", before)
    assert status == 0
    assert "evicts keys when memory is full (allkeys-lru)" in found["warning"][0]


def test_a_read_only_server_is_an_error(redis_url: str, database: str, connection: psycopg.Connection) -> None:
    name = connection.info.dbname
    connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sql.Identifier(name)))
    status, found = doctor(redis_url, database)
    assert status == 1
    assert any("read-only" in text for text in found["error"])


@pytest.fixture
def weak_dsn(database: str, connection: psycopg.Connection) -> Iterator[str]:
    """A role that may only read."""
    role = sql.Identifier(name := f"weak_{uuid.uuid4().hex[:8]}")
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA exclusive TO {}").format(role))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA exclusive TO {}").format(role))
    yield psycopg.conninfo.make_conninfo(database, user=name)
    connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
    connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_privileges_that_are_lacking_are_named(redis_url: str, weak_dsn: str) -> None:
    status, found = doctor(redis_url, weak_dsn)
    (text,) = found["error"]
    assert status == 1
    assert "INSERT on" in text
    assert "scheduled_job_refusal" in text
    assert "SELECT on" not in text


def test_a_clock_that_was_set_back_is_an_error(redis_url: str, database: str) -> None:
    ledger = Ledger(database)
    ledger.statuses.now = datetime.now(timezone.utc) + timedelta(hours=1)
    ledger.statuses.claim(request(), LeaseSettings())
    ledger.close()
    status, found = doctor(redis_url, database)
    assert status == 1
    assert "in the future: Postgres' clock has been set back" in found["error"][0]


def test_a_fixed_lease_that_is_short_for_what_was_seen_is_a_warning(redis_url: str, database: str) -> None:
    ledger = Ledger(database)
    began = datetime.now(timezone.utc) - timedelta(hours=1)
    ledger.statuses.now = began
    claim = ledger.statuses.claim(request(), LeaseSettings(ttl=90, renew=False))
    ledger.statuses.now = began + timedelta(seconds=80)
    ledger.statuses.finish(claim, "success", None, 0)  # type: ignore[arg-type]
    ledger.close()
    _, found = doctor(redis_url, database)
    assert found["warning"] == [f"job {JOB}: takes 80 s, its fixed lease only 90 s"]


# purge


def test_purge_forgets_what_is_old_and_keeps_what_matters(database: str) -> None:
    ledger = Ledger(database)
    for second, tick in enumerate(["old 1", "old 2", "last"]):
        ledger.done(10 * second, request(tick))
    ledger.claim(100, request("runs", job="another"))
    ledger.statuses.refuse(request("old 1"), "done", "long ago")

    done = run("purge", "--older-than", "30", "--postgres", database)

    assert done.output == "runs: 2 deleted, refusals: 1 deleted\n"
    assert [attempt.run_key for attempt in ledger.statuses.history(JOB, None, 9)] == ["last"]
    assert [attempt.run_key for attempt in ledger.statuses.history("another", None, 9)] == ["runs"]
    ledger.close()


def test_purge_leaves_what_is_young(redis_url: str, database: str) -> None:
    with JobGuard(redis=redis_url, postgres=database) as guard:
        for tick in ("1", "2"):
            with guard.hold(JOB, run_key=tick):
                pass
    assert run("purge", "--older-than", "1", "--postgres", database).output == "runs: 0 deleted, refusals: 0 deleted\n"


def test_purge_goes_on_while_jobs_do(redis_url: str, database: str) -> None:
    """Many small deletes beside a job that claims and finishes all the time: neither waits for the other for long."""
    stop = threading.Event()
    ran: list[str] = []

    def work() -> None:
        with JobGuard(redis=redis_url, postgres=database) as guard:
            while not stop.is_set():
                answer = guard.admit(JOB, run_key=str(len(ran)), ttl=30)
                assert isinstance(answer, Admitted)
                answer.lease.finish()
                ran.append(answer.lease.run_key)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        purger = Database(database)
        deleted = 0
        while deleted < 20:
            before = len(ran)
            deleted += purge(purger, "status", datetime.now(timezone.utc), batch=3)["runs"]
            eventually(lambda seen=before: len(ran) > seen)
        purger.close()
    finally:
        stop.set()
        worker.join()
    assert len(ran) > 20


def test_purge_of_effects_forgets_old_marks(database: str, connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO exclusive.scheduled_job_effect VALUES"
        " ('j', 'old', 1, 'main', 1, now() - interval '40 days'), ('j', 'new', 1, 'main', 2, now())"
    )
    assert run("purge", "--older-than", "30", "--effects", "--postgres", database).output == "effects: 1 deleted\n"
    assert connection.execute("SELECT run_key FROM exclusive.scheduled_job_effect").fetchall() == [("new",)]


# init


def test_the_printed_statements_make_the_same_tables(empty_database: str) -> None:
    done = run("init", "--sql")
    assert done.output == script()
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(done.output.encode())
        assert upgrade(empty_database) == []
        assert connection.execute("SELECT count(*) FROM exclusive.scheduled_job_run").fetchone() == (0,)


def test_init_without_a_database_says_what_is_missing() -> None:
    done = run("init")
    assert done.exit_code == 2
    assert "--postgres" in done.output
