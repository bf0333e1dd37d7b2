"""What keeps the stores fit: doctor, purge, and the tables by hand."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result
from psycopg import sql

from airflow_exclusive import Admitted, AlreadyDone, Busy, JobGuard
from airflow_exclusive.cli.commands import cli
from airflow_exclusive.core.admission import Claim
from airflow_exclusive.core.job import Source
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.standby import gate
from airflow_exclusive.stores.postgres import checks, statements
from airflow_exclusive.stores.postgres.checks import check as check_postgres
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.purge import purge
from airflow_exclusive.stores.postgres.schema import script, upgrade
from airflow_exclusive.stores.postgres.statuses import PostgresStatuses
from airflow_exclusive.stores.redis.scripts import lock_key
from tests.support.ledger import JOB, NEXT_TICK, Ledger, request
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


# what docs/operations.md says to watch


@pytest.fixture
def watched() -> tuple[list[str], str]:
    """Its queries, and its line for cron."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("## Watch\n")[2].partition("\n## ")[0]
    queries, line = re.findall(r"```(?:sql)?\n(.*?)```", section, re.DOTALL)
    return queries.split("\n\n"), line


def test_what_is_to_be_watched_shows_what_calls_for_a_look_and_no_more(
    database: str, connection: psycopg.Connection, watched: tuple[list[str], str]
) -> None:
    def alerts() -> list[list[tuple[Any, ...]]]:
        return [connection.execute(query.encode()).fetchall() for query in watched[0]]

    ledger = Ledger(database)

    def ago(seconds: float) -> PostgresStatuses:
        ledger.statuses.now = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        return ledger.statuses

    ago(0).claim(request(job="running"), LeaseSettings())
    ago(70).claim(request(job="just lapsed"), LeaseSettings(ttl=60))
    ago(7300).claim(request(job="taken over long ago"), LeaseSettings())
    ended = ago(7200).claim(request(job="taken over long ago"), LeaseSettings())
    assert isinstance(ended, Claim)
    ago(7100).finish(ended, "success", None, 0)
    ago(7100).refuse(request(job="refused long ago"), "stale", "too late")
    ago(0).refuse(request(job="busy"), "busy", "somebody has it")
    assert alerts() == [[], [], []]

    ago(130).claim(request(job="lost"), LeaseSettings(ttl=60))
    ago(130).claim(request(job="replaced"), LeaseSettings(ttl=60))
    ago(0).claim(request(job="replaced"), LeaseSettings())
    ago(0).refuse(request(job="replaced"), "stale", "its result is refused")
    ago(0).withdraw(request(job="asked for in vain"), "told to stop")
    ledger.close()
    lost, taken_over, refused = alerts()
    assert [row[:2] for row in lost] == [("lost", "node-a")]
    assert taken_over == [("replaced", 1)]
    assert sorted(refused) == [("asked for in vain", "withdrawn", 1), ("replaced", "stale", 1)]


def test_what_cron_is_to_run_tells_by_its_exit_status_whether_jobs_run_safely(
    redis_url: str, database: str, empty_database: str, watched: tuple[list[str], str]
) -> None:
    program, *arguments = watched[1].split(">")[0].split()[5:]
    assert program == "airflow-exclusive"
    for dsn, status in ((database, 0), (empty_database, 1)):
        addresses = {"EXCLUSIVE_REDIS_URL": redis_url, "EXCLUSIVE_POSTGRES_DSN": dsn}
        done = CliRunner().invoke(cli, arguments, env=addresses, catch_exceptions=False)
        assert done.exit_code == status
        assert any(found["level"] == "error" for found in json.loads(done.output)) == bool(status)


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


@pytest.mark.parametrize("name", ["may_run_again", "claim_attempt", "finish_attempt"])
@pytest.mark.parametrize("change", ["dropped", "another release's"])
def test_a_function_that_is_missing_or_another_releases_is_named(
    redis_url: str, database: str, connection: psycopg.Connection, name: str, change: str
) -> None:
    if change == "dropped":
        connection.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(sql.Identifier("exclusive", name)))
    else:
        definition = connection.execute("SELECT pg_get_functiondef(%s::regproc)", [f"exclusive.{name}"]).fetchone()[0]
        body = definition.replace("coalesce", "  coalesce").replace("BEGIN", "BEGIN --")
        assert body != definition
        connection.execute(body)
    status, found = doctor(redis_url, database)
    (text,) = found["error"]
    assert status == 1
    assert f"'exclusive' lacks this release's {name}()" in text
    upgrade(database)
    assert "error" not in doctor(redis_url, database)[1]


@pytest.fixture
def _next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This package with one more migration."""
    folder = tmp_path / "postgres"
    shutil.copytree(Path(statements.__file__).parent, folder)
    colour = "ALTER TABLE {schema}.scheduled_job_run ADD COLUMN colour text NOT NULL DEFAULT 'blue';\n"
    (folder / "migrations" / "status" / "0002_colour.sql").write_text(colour)
    monkeypatch.setattr(statements, "files", lambda _: folder)


@pytest.mark.usefixtures("_next_release")
def test_a_database_of_the_release_before_gets_what_it_lacks(
    redis_url: str, database: str, connection: psycopg.Connection
) -> None:
    ledger = Ledger(database)
    ledger.done(0, request())
    status, found = doctor(redis_url, database)
    assert (status, found["error"]) == (1, ["schema: 'exclusive' lacks status 0002"])
    assert [upgrade(database), upgrade(database)] == [["status 0002"], []]
    assert "error" not in doctor(redis_url, database)[1]
    ledger.done(2, request(NEXT_TICK))
    assert ledger.outcomes() == [(1, 1, 1, "success"), (2, 1, 1, "success")]
    ledger.close()
    colours = connection.execute("SELECT colour FROM exclusive.scheduled_job_run").fetchall()
    assert colours == [("blue",), ("blue",)]


def test_servers_that_do_not_answer_are_errors(redis_url: str, database: str) -> None:
    nowhere = "127.0.0.1:1"
    assert [line[:5] for line in doctor(f"redis://{nowhere}/0", database)[1]["error"]] == ["Redis"]
    assert [line[:8] for line in doctor(redis_url, f"postgresql://{nowhere}/x")[1]["error"]] == ["Postgres"]


@pytest.mark.parametrize(("table", "subject"), [("scheduled_job_run", "jobs"), ("schema_migration", "schema")])
def test_a_statement_that_is_not_answered_is_an_error_and_the_rest_is_told(
    redis_url: str, database: str, monkeypatch: pytest.MonkeyPatch, table: str, subject: str
) -> None:
    monkeypatch.setattr("airflow_exclusive.cli.commands.ANSWER_WITHIN", 0.5)
    with psycopg.connect(database) as others:
        others.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier("exclusive", table)))
        status, found = doctor(redis_url, database)
    (text,) = found["error"]
    assert status == 1
    assert text.startswith(f"{subject}: can't be ")
    assert "no answer within" in text
    assert any(text.startswith("privileges: ") for text in found["ok"])


def test_purge_does_not_wait_for_ever_for_a_server_that_is_frozen(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only to begin with: to delete a lot may take long."""
    limits: dict[str, float] = {}
    ask = Database.run

    def noted(self: Database, name: str, params: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:
        limits[name] = options.get("answer_within", math.inf)
        return ask(self, name, params, **options)

    monkeypatch.setattr(Database, "run", noted)
    assert run("purge", "--older-than", "1", "--postgres", database).exit_code == 0
    assert limits == {"now": 10.0, "purge_runs_and_marks": math.inf, "purge_refusals": math.inf}


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


def test_functions_that_a_role_may_not_call_are_named(
    redis_url: str, weak_dsn: str, connection: psycopg.Connection
) -> None:
    connection.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA exclusive FROM PUBLIC")
    status, found = doctor(redis_url, weak_dsn)
    (text,) = found["error"]
    assert status == 1
    called = ["claim_attempt", "finish_attempt", "may_run_again"]
    assert [name for name in called if f'EXECUTE on "exclusive".{name}' not in text] == []


def test_a_role_that_may_read_nothing_is_told_all_the_rest(
    redis_url: str, weak_dsn: str, connection: psycopg.Connection
) -> None:
    role = sql.Identifier(psycopg.conninfo.conninfo_to_dict(weak_dsn)["user"])
    connection.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA exclusive FROM {}").format(role))
    status, found = doctor(redis_url, weak_dsn)
    assert status == 1
    assert any("SELECT on" in text for text in found["error"])
    assert {text.split(":")[0] for text in found["note"]} >= {"schema", "jobs"}
    assert any(text.startswith("Postgres: version") for text in found["ok"])


def test_a_role_that_may_not_even_enter_the_schema_is_told_so(
    redis_url: str, weak_dsn: str, connection: psycopg.Connection
) -> None:
    role = sql.Identifier(psycopg.conninfo.conninfo_to_dict(weak_dsn)["user"])
    connection.execute(sql.SQL("REVOKE ALL ON SCHEMA exclusive FROM {}").format(role))
    done = run("doctor", "--redis", redis_url, "--postgres", weak_dsn, "--json")
    (error,) = [found for found in json.loads(done.output) if found["level"] == "error"]
    assert done.exit_code == 1
    assert "permission denied for schema exclusive" in error["text"]
    assert "GRANT" in error["cure"]


@pytest.mark.parametrize("jobs", [3, 4, 5])
def test_a_long_ledger_is_looked_at_in_parts_each_of_which_is_answered_in_time(
    redis_url: str, database: str, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    lengths: list[int] = []
    ask = Database.run

    def noted(self: Database, name: str, params: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:
        rows = ask(self, name, params, **options)
        if name == "doctor_jobs":
            lengths.append(len(rows))
        return rows

    monkeypatch.setattr(Database, "run", noted)
    monkeypatch.setattr(checks, "_JOBS_AT_A_TIME", 2)
    ledger = Ledger(database)
    ledger.statuses.now = datetime.now(timezone.utc) + timedelta(hours=1)
    names = [f"job {number}" for number in range(jobs)]
    for name in names:
        ledger.statuses.claim(request(job=name), LeaseSettings())
    ledger.close()
    _, found = doctor(redis_url, database)
    assert [text.split(":")[0] for text in found["error"]] == [f"job {name}" for name in names]
    assert max(lengths) == 2


def test_a_clock_that_was_set_back_is_an_error(redis_url: str, database: str) -> None:
    ledger = Ledger(database)
    ledger.statuses.now = datetime.now(timezone.utc) + timedelta(hours=1)
    ledger.statuses.claim(request(), LeaseSettings())
    ledger.close()
    status, found = doctor(redis_url, database)
    assert status == 1
    assert "in the future: Postgres' clock has been set back" in found["error"][0]


@pytest.mark.parametrize(("deployment", "notes"), [("airflow", 1), ("blue", 0), ("", 0)])
def test_a_deployment_without_a_name_is_noted(redis_url: str, database: str, deployment: str, notes: int) -> None:
    ledger = Ledger(database)
    ledger.statuses.claim(request(source=Source(deployment=deployment)), LeaseSettings())
    ledger.close()
    status, found = doctor(redis_url, database)
    assert status == 0
    assert str(found.get("note")).count("deployment: Airflow asks without a name") == notes


def attempt(database: str, settings: LeaseSettings, seconds: float, outcome: Literal["success", "failed"]) -> None:
    """One of three hours ago that took so long."""
    ledger = Ledger(database)
    began = datetime.now(timezone.utc) - timedelta(hours=3)
    ledger.statuses.now = began
    claim = ledger.statuses.claim(request(), settings)
    assert isinstance(claim, Claim)
    ledger.statuses.now = began + timedelta(seconds=seconds)
    assert ledger.statuses.finish(claim, outcome, None, 0) == outcome
    ledger.close()


def test_a_fixed_lease_that_is_short_for_what_was_seen_is_a_warning(redis_url: str, database: str) -> None:
    attempt(database, LeaseSettings(ttl=90, renew=False), 80, "success")
    _, found = doctor(redis_url, database)
    assert found["warning"] == [f"job {JOB}: takes 80 s, its fixed lease only 90 s"]


@pytest.mark.parametrize(
    ("settings", "seconds", "says"),
    [
        (LeaseSettings(ttl=600), 5, ["takes 5 s, but a node that dies with it is replaced only after 600 s"]),
        (LeaseSettings(renew=False), 5, ["takes 5 s, but a node that dies with it is replaced only after 300 s"]),
        (LeaseSettings(ttl=6), 700, ["takes 700 s, and 2.2 s without Postgres are enough to end it"]),
        (LeaseSettings(), 5, []),
        (LeaseSettings(), 7000, []),
        (LeaseSettings(ttl=600), 100, []),
        (LeaseSettings(renew=False, expected_duration=100), 100, []),
    ],
    ids=repr,
)
def test_a_lease_out_of_proportion_to_what_was_seen_is_noted(
    redis_url: str, database: str, settings: LeaseSettings, seconds: float, says: list[str]
) -> None:
    attempt(database, settings, seconds, "success")
    status, found = doctor(redis_url, database)
    assert (status, "warning" in found) == (0, False)
    assert [text for text in found.get("note", []) if text.startswith("job ")] == [
        f"job {JOB}: {text}" for text in says
    ]


def test_a_job_that_never_fits_into_its_fixed_lease_is_a_warning(redis_url: str, database: str) -> None:
    attempt(database, LeaseSettings(ttl=90, renew=False), 85, "failed")
    assert doctor(redis_url, database)[1]["warning"] == [f"job {JOB}: takes 85 s, its fixed lease only 90 s"]


@pytest.mark.parametrize("settings", [LeaseSettings(ttl=90, renew=False), LeaseSettings(ttl=6)], ids=repr)
def test_a_failure_tells_nothing_else_of_a_duration(redis_url: str, database: str, settings: LeaseSettings) -> None:
    attempt(database, settings, 5 if not settings.renew else 700, "failed")
    assert not [text for texts in doctor(redis_url, database)[1].values() for text in texts if text.startswith("job ")]


def test_commits_that_a_crash_forgets_are_a_warning(
    redis_url: str, database: str, connection: psycopg.Connection
) -> None:
    name = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    status, found = doctor(redis_url, database)
    assert status == 0
    assert "synchronous_commit is off" in found["warning"][0]
    assert "may run twice" in found["warning"][0]


class Pretending(Database):
    """A server that says of itself what none here can be brought to."""

    def __init__(self, dsn: str, **said: object) -> None:
        super().__init__(dsn, retry_for=0.0)
        self._said = said

    def run(self, name: str, params: Mapping[str, Any], **limits: Any) -> list[dict[str, Any]]:
        rows = super().run(name, params, **limits)
        return [{**row, **self._said} for row in rows] if name == "doctor" else rows


@pytest.mark.parametrize(
    ("said", "level", "text"),
    [
        ({"version": 120022, "version_text": "12.22"}, "error", "version 12.22"),
        ({"version": 130000, "version_text": "13.0"}, "ok", "version 13.0"),
        ({"connections": 91, "usable_connections": 100}, "warning", "91 of 100 connections are in use"),
        ({"synchronous_standby_names": "a", "synchronous_commit": "local"}, "warning", "waits for no standby"),
        ({"synchronous_standby_names": "", "standbys": 2}, "warning", "standbys (2) follow, and no commit waits"),
    ],
    ids=str,
)
def test_what_a_server_says_of_itself_is_judged(database: str, said: dict[str, Any], level: str, text: str) -> None:
    server = Pretending(database, **said)
    assert [found.level for found in check_postgres(server) if text in found.text] == [level]
    server.close()


@pytest.mark.parametrize(
    "said",
    [
        {"connections": 90, "usable_connections": 100},
        {"synchronous_commit": "local"},
        {"synchronous_standby_names": "a", "standbys": 2},
        {"synchronous_standby_names": "a", "standbys": 2, "synchronous_commit": "remote_write"},
    ],
    ids=str,
)
def test_nothing_is_said_about_a_server_that_is_as_it_should_be(database: str, said: dict[str, Any]) -> None:
    server = Pretending(database, **said)
    assert [found for found in check_postgres(server) if found.level != "ok"] == []
    server.close()


def test_a_redis_that_is_too_old_is_a_warning(redis_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda _: {"role": "master", "redis_version": "5.0.14"})
    assert doctor(redis_url, database)[1]["warning"] == ["Redis: Redis 5.0.14 is older than what is tested"]


def test_without_a_pooler_none_is_noticed(redis_url: str, database: str) -> None:
    assert any(text.startswith("pooler: none is noticed") for text in doctor(redis_url, database)[1]["ok"])


# what is left in Redis


def test_however_jobs_end_nothing_is_left_of_them_in_redis(
    redis_url: str, database: str, redis_client: redis.Redis
) -> None:
    with JobGuard(redis=redis_url, postgres=database) as guard:
        asked: dict[str, Any] = {"settings": LeaseSettings(ttl=1, on_lease_lost="warn")}

        def runs(job: str, run_key: str = "tick") -> Lease:
            answer = guard.admit(job, run_key=run_key, **asked)
            assert isinstance(answer, Admitted)
            return answer.lease

        runs("done").finish()
        assert isinstance(guard.admit("done", run_key="tick", **asked), AlreadyDone)
        runs("failed").finish("failed")
        held = runs("busy")
        assert isinstance(guard.admit("busy", run_key="tick", wait=0.2, **asked), Busy)
        held.finish()
        runs("lost")._keeper.stop()
        runs("released")._keeper.stop()
        assert guard.release("released", reason="to be sure")
        asked["settings"] = LeaseSettings(ttl=1, hold_at_least=1.5)
        runs("held back").finish()

        async def woken() -> None:
            async with gate(redis_url) as locks:
                assert (await locks.acquire("reserved", "ticket", 1)).mine

        asyncio.run(woken())
        assert redis_client.exists(lock_key("reserved"))
        eventually(lambda: redis_client.dbsize() == 0)
        assert [run.outcome for run in guard.history("lost")] == ["running"], "Postgres alone remembers"


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


LATER = datetime.now(timezone.utc) + timedelta(days=1)


def test_a_tick_that_is_forgotten_has_its_effect_again_when_it_runs_again(
    redis_url: str, database: str, connection: psycopg.Connection
) -> None:
    connection.execute("CREATE TABLE written (run_key text)")
    done = []
    with JobGuard(redis=redis_url, postgres=database) as guard, closing(Database(database)) as purger:

        def runs(run_key: str) -> None:
            with guard.hold(JOB, run_key=run_key, rerun=True) as lease:
                for step in ("1", "2"):
                    with lease.transaction(connection, step=step) as tx:
                        tx.execute("INSERT INTO written VALUES (%(run_key)s)", {"run_key": run_key})
                        done.append(tx.done)

        runs("old")
        runs("last")
        assert purge(purger, "status", LATER, batch=1)["runs"] == 1
        runs("old")
    assert not any(done)
    written = connection.execute("SELECT run_key, count(*) FROM written GROUP BY run_key ORDER BY run_key").fetchall()
    assert written == [("last", 2), ("old", 4)]


def test_purge_keeps_marks_of_ticks_that_have_an_attempt_left_and_of_other_ledgers(
    database: str, connection: psycopg.Connection
) -> None:
    ledger = Ledger(database)
    for second in (0, 10):
        ledger.at(second).finish(ledger.claim(second, request()), "failed", None, 0)
    mark = "INSERT INTO exclusive.scheduled_job_effect VALUES (%s, %s, 1, 'main', 1, now() - interval '40 days')"
    marked = [(JOB, request().run_key), (JOB, "a tick of another ledger")]
    for tick in marked:
        connection.execute(mark, tick)

    assert purge(ledger.statuses.database, "status", LATER)["runs"] == 1

    left = connection.execute("SELECT job_name, run_key FROM exclusive.scheduled_job_effect").fetchall()
    assert sorted(left) == sorted(marked)
    ledger.close()


@pytest.mark.parametrize(
    "elsewhere",
    ["DROP TABLE exclusive.scheduled_job_effect", "REVOKE ALL ON exclusive.scheduled_job_effect FROM {role}"],
)
def test_purge_of_attempts_needs_no_marks(
    database: str, weak_dsn: str, connection: psycopg.Connection, elsewhere: str
) -> None:
    role = sql.Identifier(psycopg.conninfo.conninfo_to_dict(weak_dsn)["user"])
    connection.execute(sql.SQL("GRANT DELETE ON ALL TABLES IN SCHEMA exclusive TO {}").format(role))
    connection.execute(sql.SQL(elsewhere).format(role=role))  # type: ignore[arg-type]
    ledger = Ledger(database)
    for second, tick in enumerate(["old", "last"]):
        ledger.done(10 * second, request(tick))
    ledger.close()
    done = run("purge", "--older-than", "30", "--postgres", weak_dsn)
    assert done.output == "runs: 1 deleted, refusals: 0 deleted\n"


def test_purge_tells_programs_how_much(database: str) -> None:
    ledger = Ledger(database)
    ledger.done(0, request("old"))
    ledger.done(10, request("last"))
    ledger.close()
    done = run("purge", "--older-than", "30", "--postgres", database, "--json")
    assert json.loads(done.output) == {"runs": 1, "refusals": 0}
    done = run("purge", "--older-than", "30", "--effects", "--postgres", database, "--json")
    assert json.loads(done.output) == {"effects": 0}


@pytest.mark.parametrize("days", ["-1", "36526", "99999999999", "soon"])
def test_purge_of_days_that_cannot_be_is_refused(database: str, days: str) -> None:
    done = run("purge", "--older-than", days, "--postgres", database)
    assert done.exit_code == 2
    assert "--older-than" in done.output


# init


def test_init_tells_programs_what_was_applied(empty_database: str) -> None:
    done = run("init", "--postgres", empty_database, "--schema", "jobs", "--json")
    assert json.loads(done.output) == {"schema": "jobs", "applied": ["status 0001", "effects 0001"]}
    again = run("init", "--postgres", empty_database, "--schema", "jobs", "--json")
    assert (again.exit_code, json.loads(again.output)) == (0, {"schema": "jobs", "applied": []})


def test_init_refuses_statements_as_json() -> None:
    done = run("init", "--sql", "--json")
    assert done.exit_code == 2
    assert "--sql=True: prints statements, and can't be given together with --json" in done.output


@pytest.mark.parametrize("limit", ["0", "1" + "0" * 30])
def test_a_limit_that_cannot_be_is_refused(redis_url: str, database: str, limit: str) -> None:
    asked = run("history", JOB, "--limit", limit, "--redis", redis_url, "--postgres", database)
    assert asked.exit_code == 2
    assert "'--limit'" in asked.output


def test_init_of_a_schema_that_cannot_be_asks_no_server() -> None:
    done = run("init", "--postgres", "postgresql://127.0.0.1:1/nobody", "--schema", "a b")
    assert (done.exit_code, "--schema='a b': must be a plain name" in done.output) == (2, True)


@pytest.mark.parametrize("question", [["history", ""], ["release", "", "--reason", "x"], ["run", "", "--", "true"]])
def test_a_job_without_a_name_is_refused(redis_url: str, database: str, question: list[str]) -> None:
    command, *rest = question
    done = run(command, "--redis", redis_url, "--postgres", database, *rest)
    assert (done.exit_code, done.output) == (2, "airflow-exclusive: JOB='': must not be empty\n")


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
