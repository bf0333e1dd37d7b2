"""The way to the truth: schema, privileges, broken connections; and many nodes asking at the same moment."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from airflow_exclusive.core.admission import AlreadyDone, Busy, Claim, Verdict
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, StoreMisconfigured, StoreUnavailable
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.stores.postgres import statuses
from airflow_exclusive.stores.postgres.async_statuses import AsyncPostgresStatuses
from airflow_exclusive.stores.postgres.connection import connect
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.schema import upgrade
from tests.support import children
from tests.support.ledger import JOB, Ledger, request
from tests.support.proxied_node import through
from tests.support.proxy import HANGING, PostgresProtocol, Proxy, words
from tests.support.waiting import eventually

SETTINGS = LeaseSettings()


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    made = Ledger(database)
    yield made
    made.close()


def other_role(dsn: str, role: str) -> str:
    return make_conninfo(dsn, options=f"-c role={role}")


# whatever the database's own settings are


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("client_encoding", "SQL_ASCII"),
        ("client_encoding", "LATIN1"),
        ("datestyle", "German"),
        ("datestyle", "SQL, DMY"),
        ("datestyle", "Postgres"),
        ("intervalstyle", "iso_8601"),
        ("timezone", "Asia/Kathmandu"),
        ("bytea_output", "escape"),
        ("standard_conforming_strings", "off"),
        ("default_transaction_isolation", "serializable"),
        ("search_path", "nowhere"),
    ],
)
def test_settings_of_the_database_change_no_answer(
    database: str, connection: psycopg.Connection, setting: str, value: str
) -> None:
    name = sql.Identifier(connection.info.dbname)
    statement = sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
    if setting == "search_path":
        statement = sql.SQL("ALTER DATABASE {} SET search_path = {}").format(name, sql.Identifier(value))
    connection.execute(statement)
    ask_and_finish(database)


def ask(dsn: str) -> None:
    with closing(Database(dsn, retry_for=0, answer_within=0.5)) as asking:
        asking.run("now", {"now": None})


def ask_in_a_loop(dsn: str) -> None:
    async def ask() -> None:
        asking = AsyncPostgresStatuses(dsn, answer_within=0.5)
        try:
            await asking.clock()
        finally:
            await asking.close()

    asyncio.run(ask())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ask", [ask, ask_in_a_loop])
def test_a_setting_that_is_not_confirmed_in_time_is_given_up_with_its_connection(
    database: str, connection: psycopg.Connection, ask: Callable[[str], None]
) -> None:
    name = connection.info.dbname
    connection.execute(f"ALTER DATABASE {name} SET datestyle = 'German'")  # so that another one is asked for
    proxy = Proxy(PostgresProtocol(), connection.info.host, connection.info.port)
    try:
        fault = proxy.arm(words("SET datestyle"), HANGING)
        with pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 s"):
            ask(through(database, proxy))
        assert fault.hit.is_set()
        eventually(lambda: others(connection) == 0)
    finally:
        proxy.close()


def others(connection: psycopg.Connection) -> int:
    """How many of ours there are to this database."""
    ours = "datname = current_database() AND application_name = 'airflow-exclusive'"
    row = connection.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}").fetchone()
    assert row
    return int(row[0])


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_the_environments_encoding_changes_no_answer(
    database: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    ask_and_finish(database)


def test_a_database_without_an_encoding_changes_no_answer(database: str, connection: psycopg.Connection) -> None:
    """What `initdb` makes where the locale is C."""
    name = f"{connection.info.dbname}_ascii"
    statement = sql.SQL("CREATE DATABASE {} ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
    connection.execute(statement.format(sql.Identifier(name)))
    try:
        dsn = make_conninfo(database, dbname=name)
        assert upgrade(dsn)
        assert not upgrade(dsn)
        ask_and_finish(dsn)
    finally:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def ask_and_finish(dsn: str) -> None:
    """Every kind of answer, with the times and the names that are in it."""
    asked = time.time()
    ledger = Ledger(dsn)
    try:
        claim = ledger.statuses.claim(request("tick", node="узел"), SETTINGS)
        assert isinstance(claim, Claim)
        busy = ledger.statuses.claim(request("tick", node="node b"), SETTINGS)
        assert isinstance(busy, Busy)
        assert busy.holder is not None
        assert busy.holder.node_id == "узел"
        assert busy.holder.started_at is not None
        assert abs(busy.holder.started_at.timestamp() - asked) < 3600
        assert isinstance(asyncio.run(_look(dsn)), Busy)
        assert ledger.statuses.finish(claim, "success", None, 0, result="итог") == "success"
        done = ledger.statuses.claim(request("tick", node="node b"), SETTINGS)
        assert isinstance(done, AlreadyDone)
        assert [attempt.outcome for attempt in ledger.statuses.history(JOB, None, 10)] == ["success"]
    finally:
        ledger.close()


async def _look(dsn: str) -> Verdict:
    statuses = AsyncPostgresStatuses(dsn)
    try:
        return await statuses.look(request("tick", node="node c"))
    finally:
        await statuses.close()


# many at once


def test_of_sixteen_threads_one_is_admitted_to_each_tick_with_growing_tokens(database: str) -> None:
    ticks, nodes = 10, 16
    together = threading.Barrier(nodes, timeout=30)
    won: list[list[int]] = [[] for _ in range(ticks)]
    errors: list[BaseException] = []

    def run(node: int) -> None:
        ledger = Ledger(database)
        try:
            for tick in range(ticks):
                together.wait()
                answer = ledger.statuses.claim(request(f"tick {tick}", node=f"node {node}"), SETTINGS)
                if isinstance(answer, Claim):
                    won[tick].append(answer.attempt.fencing_token)
                    ledger.statuses.finish(answer, "success", None, 0)
                together.wait()
        except BaseException as error:
            errors.append(error)
            together.abort()
        finally:
            ledger.close()

    threads = [threading.Thread(target=run, args=[node]) for node in range(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert won == [[tick + 1] for tick in range(ticks)]


def test_of_four_processes_one_runs_each_tick_with_growing_tokens(database: str) -> None:
    nodes = [children.start("tests.support.claimers", database, JOB, f"node {n}") for n in range(4)]
    try:
        for node in nodes:
            assert node.stdout is not None
            assert node.stdout.readline() == "ready\n"
        ran = []
        for tick in range(25):
            for node in nodes:
                assert node.stdin is not None
                node.stdin.write(f"tick {tick}\n")
                node.stdin.flush()
            ran.append(sorted(int(node.stdout.readline()) for node in nodes if node.stdout is not None))
        assert ran == [[0, 0, 0, tick + 1] for tick in range(25)]
    finally:
        for node in nodes:
            children.end(node)


# schema


def test_without_its_tables_it_says_what_to_run(empty_database: str) -> None:
    ledger = Ledger(empty_database)
    with pytest.raises(
        StoreMisconfigured, match=r"schema 'exclusive' in .* isn't ready: .*; run `airflow-exclusive init`"
    ):
        ledger.statuses.look(request())
    ledger.close()


def test_upgrade_is_done_once(empty_database: str) -> None:
    assert upgrade(empty_database)[:1] == ["status 0001"]
    assert upgrade(empty_database) == []


def test_upgrade_installs_what_was_asked_for(empty_database: str) -> None:
    assert {name.split()[0] for name in upgrade(empty_database, status=False)} == {"effects"}
    assert {name.split()[0] for name in upgrade(empty_database)} == {"status"}


def test_two_nodes_may_upgrade_at_once(empty_database: str) -> None:
    start = threading.Barrier(4)
    applied: list[str] = []
    errors: list[Exception] = []

    def run() -> None:
        start.wait()
        try:
            applied.extend(upgrade(empty_database))
        except Exception as error:
            errors.append(error)

    nodes = [threading.Thread(target=run) for _ in range(4)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    assert errors == []
    assert len(applied) == len(set(applied)) > 1


def test_two_schemas_of_one_database_do_not_know_each_other(database: str) -> None:
    upgrade(database, schema="Second")
    first, second = Ledger(database), Ledger(database, schema="Second")
    first.claim(0, request())
    assert second.claim(0, request()).attempt.fencing_token == 1
    first.close()
    second.close()


# privileges and logins


@pytest.fixture
def role(database: str, connection: psycopg.Connection) -> Iterator[str]:
    name = conninfo_to_dict(database)["dbname"]
    assert isinstance(name, str)
    role = name.replace("exclusive_test", "role")
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    yield role
    connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def test_a_role_without_privileges_is_told_so(database: str, role: str) -> None:
    ledger = Ledger(other_role(database, role))
    with pytest.raises(StoreMisconfigured, match=r"lacks a privilege in schema 'exclusive': permission denied"):
        ledger.statuses.look(request())
    ledger.close()


def test_a_role_that_may_only_read_is_told_so_and_leaves_nothing(
    redis_url: str, database: str, connection: psycopg.Connection, role: str
) -> None:
    for grant in ("USAGE ON SCHEMA exclusive", "SELECT ON ALL TABLES IN SCHEMA exclusive"):
        connection.execute(sql.SQL(f"GRANT {grant} TO {{}}").format(sql.Identifier(role)))
    with JobGuard(redis=redis_url, postgres=other_role(database, role)) as guard:
        assert guard.peek(JOB, run_key="tick") is None
        told = r"lacks a privilege in schema 'exclusive': permission denied for table \w+; see docs/operations\.md"
        with pytest.raises(StoreMisconfigured, match=told):
            guard.admit(JOB, run_key="tick")
        assert guard.locks.owner(JOB) is None
        assert (guard.status(JOB), guard.history(JOB), guard.refusals(JOB)) == ([], [], [])


def test_a_runtime_role_needs_no_more_than_to_read_insert_and_update(
    database: str, connection: psycopg.Connection, role: str
) -> None:
    for grant in ("USAGE ON SCHEMA exclusive", "SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA exclusive"):
        connection.execute(sql.SQL(f"GRANT {grant} TO {{}}").format(sql.Identifier(role)))
    ledger = Ledger(other_role(database, role))
    asked = request()
    claim = ledger.claim(0, asked)
    assert ledger.at(1).renew(claim, 30)
    ledger.at(1).refuse(request(), "busy", "it has it")
    assert ledger.at(1).finish(claim, "success", None, 0) == "success"
    ledger.at(2).confirm(asked)
    ledger.at(2).release(JOB, asked.owner, "to be sure")
    assert ledger.outcomes() == [(1, 1, 1, "success")]
    assert len(ledger.statuses.refusals(JOB, None, 5)) == len(ledger.statuses.status(None)) == 1
    ledger.close()


def test_a_role_that_may_not_create_cannot_upgrade(database: str, role: str) -> None:
    with pytest.raises(StoreMisconfigured, match="lacks a privilege"):
        upgrade(other_role(database, role), schema="another")


@pytest.mark.parametrize("wrong", [{"dbname": "nowhere"}, {"user": "nobody"}])
def test_a_login_that_cannot_work_is_told_at_once(database: str, wrong: dict[str, str]) -> None:
    unreachable = Database(make_conninfo(database, password="secret", **wrong))
    began = time.monotonic()
    with pytest.raises(StoreMisconfigured, match="can't log in") as failed:
        unreachable.run("now", {"now": None})
    assert time.monotonic() - began < 2
    assert "secret" not in str(failed.value)


# connections


def test_nothing_is_prepared_however_often_it_is_asked(database: str) -> None:
    """The driver would prepare what comes more than five times, which a pooler in transaction mode can't follow."""
    with connect(database, connect_timeout=5, answer_within=10) as connection:
        for _ in range(7):
            connection.execute("SELECT 1")
        assert connection.execute("SELECT FROM pg_prepared_statements").rowcount == 0


def test_a_broken_connection_is_replaced_and_the_statement_sent_again(
    ledger: Ledger, connection: psycopg.Connection
) -> None:
    ledger.claim(0, request())
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'airflow-exclusive' AND datname = current_database()"
    )
    assert len(ledger.at(1).status(None)) == 1


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was lost: the first reply."""
    execute = Database._execute
    lost: list[str] = []

    def lose_the_first_reply(self: Database, *asked: Any) -> object:
        rows = execute(self, *asked)
        if not lost:
            lost.append("reply")
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return rows

    monkeypatch.setattr(Database, "_execute", lose_the_first_reply)
    return lost


def test_a_claim_whose_reply_was_lost_is_found_again(ledger: Ledger, lost: list[str]) -> None:
    ledger.claim(0, request())
    assert lost == ["reply"]
    assert ledger.outcomes() == [(1, 1, 1, "running")]


@pytest.mark.usefixtures("lost")
def test_who_has_no_time_for_another_try_makes_none(database: str) -> None:
    hasty = Database(database, retry_for=0.0)
    with pytest.raises(StoreUnavailable):
        hasty.run("now", {"now": None})
    hasty.close()


@pytest.mark.usefixtures("lost")
def test_who_is_told_to_be_patient_tries_again(database: str) -> None:
    hasty = Database(database, retry_for=0.0)
    assert hasty.run("now", {"now": None}, retry_for=10)
    hasty.close()


def test_a_server_that_is_away_is_named_without_its_password_after_some_tries() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dsn = f"postgresql://me:secret@127.0.0.1:{unused.getsockname()[1]}/x"
        away = Database(dsn, retry_for=0.3)
        with pytest.raises(StoreUnavailable, match=r"me:\*\*\*@127.0.0.1:\d+/x doesn't answer") as failed:
            away.run("look", {})
    assert "secret" not in str(failed.value)


def test_a_server_that_may_only_be_read_is_another_try_elsewhere(database: str) -> None:
    standby = Ledger(make_conninfo(database, options="-c default_transaction_read_only=on"), retry_for=0.1)
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        standby.statuses.claim(request(), SETTINGS)
    standby.close()


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="must be a postgresql:// URL or a libpq connection string"):
        Database("localhost")


def test_any_other_error_is_ours_too(database: str) -> None:
    ledger = Ledger(database)
    with pytest.raises(ExclusiveError, match="syntax error"):
        ledger.database.run_text("SELEC", None)
    assert ledger.statuses.status(None) == []
    ledger.close()


@pytest.mark.timeout(60)
def test_a_clock_that_does_not_answer_is_not_asked_for_as_long_as_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks it can do without, and holds a worker meanwhile."""
    monkeypatch.setattr(statuses, "_BRIEFLY", 0.1)
    with closing(Database("postgresql://127.0.0.1:1/nobody", retry_for=3600)) as nowhere:
        asked = statuses.PostgresStatuses(nowhere)
        with pytest.raises(StoreUnavailable):
            asked.clock()
