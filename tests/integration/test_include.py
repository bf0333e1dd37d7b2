"""What the sample jobs do, on a real database."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pytest

import include
from airflow_exclusive import LeaseLost
from airflow_exclusive.inherited import InheritedLease
from airflow_exclusive.stores.postgres import schema
from deploy.embedded.postgres import EmbeddedPostgres, PostgresServer
from include import checkpoints, flights, samples
from tests.support.databases import PassingDatabases
from tests.support.waiting import eventually

TICK = "2013-01-02T00:00:00Z"
DAY = date(2013, 1, 1)
DEPARTED = 842
JANUARY = 27_004
CHECKOUT = Path(include.__file__).parents[1]

Connect = Callable[[str], Any]
either_driver = pytest.mark.parametrize("connect", [psycopg.connect, psycopg2.connect], ids=["psycopg3", "psycopg2"])


@pytest.fixture(scope="module")
def loaded(postgres_server: PostgresServer) -> Iterator[str]:
    """Name of a database with the flights and the tables of effects, to copy."""
    name = f"exclusive_flights_{uuid.uuid4().hex[:12]}"
    dsn = postgres_server.create_database(name)
    schema.upgrade(dsn, status=False)
    with psycopg.connect(dsn) as conn:
        flights.load_flights(conn)
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def warehouse(postgres_server: PostgresServer, passing_databases: PassingDatabases, loaded: str) -> Iterator[str]:
    """DSN of a database with the flights, this test's own."""
    with passing_databases.made(postgres_server, loaded) as dsn:
        yield dsn


def lease(token: int = 1, run_key: str = TICK) -> InheritedLease:
    return InheritedLease("flights_rollup", run_key, 1, token)


def ask(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


def counted(dsn: str, table: str = "flights_by_day") -> dict[date, int]:
    return dict(ask(dsn, f"SELECT day, flights FROM {table}"))


class TestFlights:
    @either_driver
    def test_all_flights_are_loaded_once(self, empty_database: str, connect: Connect) -> None:
        with closing(connect(empty_database)) as conn:
            assert flights.load_flights(conn) == flights.FLIGHTS
            assert flights.load_flights(conn) == 0
        query = "SELECT count(*), count(*) FILTER (WHERE month = 1), count(dep_time) FROM flights"
        assert ask(empty_database, query) == [(flights.FLIGHTS, JANUARY, 328_521)]

    def test_two_nodes_at_once_load_them_once(self, empty_database: str) -> None:
        def load(_: int) -> int:
            with psycopg.connect(empty_database) as conn:
                return flights.load_flights(conn)

        with ThreadPoolExecutor(4) as nodes:
            assert sorted(nodes.map(load, range(4))) == [0, 0, 0, flights.FLIGHTS]

    def test_the_archive_is_found_without_pandas(self) -> None:
        find = "import sys; sys.modules['pandas'] = None; from include import flights; print(flights.archive())"
        done = subprocess.run([sys.executable, "-c", find], cwd=CHECKOUT, capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()).is_file()

    @pytest.mark.parametrize(
        ("fire_time", "day"),
        [
            ("2013-01-02T00:00:00Z", DAY),
            ("2013-01-02T00:00:00+00:00", DAY),
            ("2013-01-01T19:00:00-05:00", DAY),
            ("2013-02-01T00:00:00Z", date(2013, 1, 31)),
        ],
    )
    def test_a_tick_is_for_the_day_before_it(self, fire_time: str, day: date) -> None:
        assert flights.day_before(fire_time) == day

    def test_a_fire_time_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no time zone"):
            flights.day_before("2013-01-02T00:00:00")


class TestRollUp:
    @either_driver
    def test_a_step_that_was_committed_is_not_repeated(self, warehouse: str, connect: Connect) -> None:
        with closing(connect(warehouse)) as conn:
            assert flights.roll_up(lease(1), conn, DAY) == DEPARTED
            assert flights.roll_up(lease(2), conn, DAY) == DEPARTED
        assert counted(warehouse) == {DAY: DEPARTED}

    def test_a_stale_token_changes_nothing(self, warehouse: str) -> None:
        next_day = flights.tick_of("2013-01-03T00:00:00Z")
        with psycopg.connect(warehouse) as conn:
            flights.roll_up(lease(2), conn, DAY)
            with pytest.raises(LeaseLost):
                flights.roll_up(lease(1, "2013-01-03T00:00:00Z"), conn, flights.day_before(next_day))
        assert counted(warehouse) == {DAY: DEPARTED}

    @either_driver
    def test_unguarded_it_counts_twice(self, warehouse: str, connect: Connect) -> None:
        with closing(connect(warehouse)) as conn:
            flights.roll_up_unguarded(conn, DAY)
            flights.roll_up_unguarded(conn, DAY)
        assert counted(warehouse, "flights_by_day_unguarded") == {DAY: 2 * DEPARTED}

    def test_the_command_finds_its_lease(self, warehouse: str) -> None:
        told = {"JOB": "flights_rollup", "RUN_KEY": TICK, "GENERATION": "1", "TOKEN": "7", "OWNER": "somebody"}
        environ = {**os.environ, **{f"EXCLUSIVE_{name}": value for name, value in told.items()}}
        command = [sys.executable, "-m", "include.flights", "roll-up", "--dsn", warehouse]
        for _ in range(2):
            done = subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=True)
            assert done.stdout == f"{DAY}: {DEPARTED} flights\n"
        assert counted(warehouse) == {DAY: DEPARTED}

    def test_two_steps_survive_a_crash_between_them(self, warehouse: str) -> None:
        class DiesHalfway(InheritedLease):
            def transaction(self, conn: Any, step: str = "main") -> Any:
                if step == "deposit":
                    raise SystemExit("killed")
                return super().transaction(conn, step)

        with psycopg.connect(warehouse) as conn:
            with pytest.raises(SystemExit):
                samples.transfer(DiesHalfway("till_to_bank", TICK, 1, 1), conn, 100)
            samples.transfer(InheritedLease("till_to_bank", TICK, 1, 2), conn, 100)
        assert dict(ask(warehouse, "SELECT name, balance FROM account")) == {"till": -100, "bank": 100}


class TestCheckpoints:
    def test_nothing_is_waited_for_by_default(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv(checkpoints.FOLDER, raising=False)
        checkpoints.reach("before-commit", TICK)
        monkeypatch.setenv(checkpoints.FOLDER, str(tmp_path))
        checkpoints.reach("before-commit", TICK)
        assert list(tmp_path.iterdir()) == []

    def test_an_order_is_kept_until_it_is_lifted(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(checkpoints.FOLDER, str(tmp_path))
        order, reached = tmp_path / f"{TICK}.before-commit", tmp_path / f"{TICK}.before-commit.reached"
        order.touch()
        with ThreadPoolExecutor(1) as job:
            waiting = job.submit(checkpoints.reach, "before-commit", TICK)
            eventually(reached.exists)
            assert reached.read_text() == str(os.getpid())
            assert not waiting.done()
            order.unlink()
            waiting.result(timeout=5)


class TestBackup:
    def run(self, folder: Path, source: str, postgres_server: PostgresServer) -> subprocess.CompletedProcess[str]:
        if not isinstance(postgres_server, EmbeddedPostgres):
            pytest.skip("pg_dump comes with the embedded server")
        environ = {
            "PATH": os.pathsep.join([str(postgres_server.pg_bin), os.environ["PATH"]]),
            "EXCLUSIVE_RUN_KEY": TICK,
            "EXCLUSIVE_TOKEN": "7",
            "BACKUP_FOLDER": str(folder),
            "BACKUP_SOURCE": source,
        }
        script = include.FOLDER / "backup.sh"
        return subprocess.run(["sh", script], env=environ, capture_output=True, text=True, check=False)

    def test_a_dump_is_written(self, tmp_path: Path, database: str, postgres_server: PostgresServer) -> None:
        done = self.run(tmp_path / "backups", database, postgres_server)
        assert done.returncode == 0, done.stderr
        written = tmp_path / "backups" / "2013-01-02T00-00-00Z.dump"
        assert done.stdout == f"{written}\n"
        assert written.read_bytes().startswith(b"PGDMP")

    def test_a_failure_leaves_nothing(self, tmp_path: Path, database: str, postgres_server: PostgresServer) -> None:
        done = self.run(tmp_path, f"{database}_that_is_not_there", postgres_server)
        assert done.returncode != 0
        assert list(tmp_path.iterdir()) == []
