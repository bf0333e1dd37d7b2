"""The contract of the status store through PgBouncer in transaction mode."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from airflow_exclusive.core.lease import Lease
from airflow_exclusive.stores.postgres import schema
from deploy.embedded.postgres import PostgresServer
from deploy.embedded.release import PROJECT
from tests.contract import test_postgres_statuses as statuses
from tests.contract.test_postgres_database import (  # noqa: F401
    ask_and_finish,
    lost,
    test_a_claim_whose_reply_was_lost_is_found_again,
    test_of_four_processes_one_runs_each_tick_with_growing_tokens,
    test_of_sixteen_threads_one_is_admitted_to_each_tick_with_growing_tokens,
    test_two_schemas_of_one_database_do_not_know_each_other,
)
from tests.contract.test_postgres_statuses import *  # noqa: F403
from tests.support.ledger import Ledger
from tests.support.proxied_node import Node, Truth, keepers
from tests.support.servers import OddPostgres, PgBouncer
from tests.support.waiting import eventually

OPERATIONS = PROJECT / "docs" / "operations.md"


@pytest.fixture
def database(database: str, pgbouncer: PgBouncer) -> str:
    """The test's own database, behind the pooler."""
    return pgbouncer.dsn(database.rpartition("/")[2])


def test_a_claim_that_waits_for_the_finisher_of_its_tick_finds_it_done(
    ledger: Ledger, database: str, connection: psycopg.Connection
) -> None:
    # A pooler refuses a session's own settings, so the other isolation levels can't be asked for here.
    test = statuses.test_a_claim_that_waits_for_the_finisher_of_its_tick_finds_it_done
    test(ledger, database, connection, "read committed")


def test_an_upgrade_of_many_steps_leaves_nothing_to_trip_over_for_the_next_one(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the driver prepares, as it does with what comes often, would stay with the pool's connection."""
    steps = [("status", number, "SELECT") for number in range(101, 110)]
    monkeypatch.setattr(schema, "_wanted", lambda *_: steps)
    for name in ("first", "second"):
        assert len(schema.upgrade(database, schema=name, status=False)) == len(steps)


def test_it_is_in_transaction_mode(pgbouncer: PgBouncer) -> None:
    with psycopg.connect(pgbouncer.dsn("pgbouncer"), autocommit=True) as console:
        console.prepare_threshold = None
        told = psycopg.ClientCursor(console).execute("SHOW CONFIG").fetchall()
    assert ("pool_mode", "transaction") in [row[:2] for row in told]


@pytest.mark.parametrize("setting", ["datestyle = 'German'", "client_encoding = 'SQL_ASCII'"])
def test_settings_of_the_database_change_no_answer(
    database: str, pgbouncer: PgBouncer, connection: psycopg.Connection, setting: str
) -> None:
    name = connection.info.dbname
    connection.execute(f"ALTER DATABASE {name} SET {setting}")
    with psycopg.connect(pgbouncer.dsn("pgbouncer"), autocommit=True) as console:
        psycopg.ClientCursor(console).execute(f"RECONNECT {name}")  # what was greeted before knows the setting of then
    ask_and_finish(database)


def test_a_run_from_admission_to_its_end(redis_url: str, database: str, postgres_server: PostgresServer) -> None:
    truth = Truth(redis_url, postgres_server.dsn(database.rpartition("/")[2]))
    node = Node(redis_url, database, ttl=6, before=lambda _: truth.wait_for_renewals(2))
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_a_pooler_that_is_restarted_stops_nobody(
    redis_url: str, database: str, pgbouncer: PgBouncer, postgres_server: PostgresServer
) -> None:
    truth = Truth(redis_url, postgres_server.dsn(database.rpartition("/")[2]))

    def restart(lease: Lease) -> None:
        assert pgbouncer.daemon is not None
        truth.wait_for_renewals(1)
        pgbouncer.daemon.kill()
        pgbouncer.start()
        truth.wait_for_renewals(2)

    node = Node(redis_url, database, ttl=8, before=restart)
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


SLOTS = 2


@pytest.fixture
def narrow_pooler(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """One that has few connections to give, and lets who finds none wait in silence."""
    bouncer = PgBouncer(tmp_path / "pgbouncer", postgres_server.dsn(), pool_size=SLOTS)
    try:
        yield bouncer.start()
    finally:
        bouncer.remove()


class Crowd:
    """Takes all slots of the pool, in transactions that stay open."""

    def __init__(self, pooler: PgBouncer, dsn: str) -> None:
        self._dsn, self._console, self._taken = dsn, pooler.dsn("pgbouncer"), ExitStack()

    def take(self) -> None:
        for _ in range(SLOTS):
            self._taken.enter_context(psycopg.connect(self._dsn)).execute("SELECT")

    def leave(self) -> None:
        self._taken.close()

    def wait_for_waiters(self, number: int) -> None:
        """Until so many connections have waited, one after the other perhaps."""
        seen: set[str] = set()
        with psycopg.connect(self._console, autocommit=True, row_factory=dict_row) as console:
            console.prepare_threshold = None

            def waiting() -> set[str]:
                clients = psycopg.ClientCursor(console).execute("SHOW CLIENTS").fetchall()
                return {client["ptr"] + client["connect_time"] for client in clients if client["state"] == "waiting"}

            eventually(lambda: seen.update(waiting()) or len(seen) >= number)


@pytest.fixture
def truth(redis_url: str, database: str, postgres_server: PostgresServer) -> Truth:
    """What is seen past the pooler."""
    return Truth(redis_url, postgres_server.dsn(database.rpartition("/")[2]))


@pytest.fixture
def node(redis_url: str, database: str, narrow_pooler: PgBouncer) -> Node:
    return Node(redis_url, narrow_pooler.dsn(database.rpartition("/")[2]), ttl=6)


@pytest.fixture
def crowd(narrow_pooler: PgBouncer, node: Node) -> Crowd:
    return Crowd(narrow_pooler, node.postgres)


def test_who_finds_every_slot_of_the_pool_taken_is_admitted_when_there_is_one(
    node: Node, truth: Truth, crowd: Crowd
) -> None:
    crowd.take()
    asker = threading.Thread(target=node.run)
    asker.start()
    crowd.wait_for_waiters(2)  # nothing was heard, and it is asked again
    assert node.ran == []
    crowd.leave()
    asker.join(30)
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_a_renewal_that_finds_every_slot_of_the_pool_taken_is_made_when_there_is_one(
    node: Node, truth: Truth, crowd: Crowd
) -> None:

    def wait(lease: Lease) -> None:
        crowd.take()
        crowd.wait_for_waiters(1)
        renewed = truth.heartbeat()
        crowd.leave()
        eventually(lambda: truth.heartbeat() > renewed)
        lease.ensure_held()

    node.before = wait
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_an_end_that_finds_every_slot_of_the_pool_taken_is_recorded_when_there_is_one(
    node: Node, truth: Truth, crowd: Crowd
) -> None:
    crowded = threading.Event()
    work = node.work

    def then_crowd(lease: Lease) -> None:
        work(lease)
        crowd.take()
        crowded.set()

    node.work = then_crowd  # type: ignore[method-assign]
    runner = threading.Thread(target=node.run)
    runner.start()
    assert crowded.wait(20)
    eventually(lambda: not keepers())  # from here on it is the job that asks
    crowd.wait_for_waiters(2)  # nothing was heard, and it is sent again
    assert truth.outcomes() == ["running"]
    crowd.leave()
    runner.join(30)
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


@pytest.fixture
def documented_pooler(tmp_path: Path, breakable_postgres: OddPostgres) -> Iterator[PgBouncer]:
    """One with what docs/operations.md wants it to have, before a server to break."""
    (setting,) = re.findall(r"`(server_login_retry = \d+)`", OPERATIONS.read_text())
    bouncer = PgBouncer(tmp_path / "pgbouncer", breakable_postgres.dsn(), more=setting)
    try:
        yield bouncer.start()
    finally:
        bouncer.remove()


def test_a_server_that_is_restarted_behind_its_pooler_stops_nobody(
    redis_url: str, breakable: str, breakable_postgres: OddPostgres, documented_pooler: PgBouncer
) -> None:
    """The ttl lets a renewal come late by 5.5 s, a third of what the pooler would wait by default."""
    truth = Truth(redis_url, breakable)
    behind = documented_pooler.dsn(breakable.rpartition("/")[2])

    def restart(lease: Lease) -> None:
        truth.wait_for_renewals(1)
        breakable_postgres.kill()
        asker = threading.Thread(target=ask)
        asker.start()
        eventually(lambda: "connect failed" in documented_pooler.log())  # and from now on it waits
        breakable_postgres.start()
        truth.wait_for_renewals(1)
        lease.ensure_held()
        asker.join(30)

    def ask() -> None:
        with suppress(psycopg.OperationalError), psycopg.connect(behind) as connection:
            connection.execute("SELECT")

    node = Node(redis_url, behind, ttl=15, before=restart)
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()
