"""The truth stopped, cancelled, read-only, full and failed over: fewer admissions perhaps, never one too many."""

from __future__ import annotations

import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from airflow_exclusive.core.admission import Admitted, Busy, Claim
from airflow_exclusive.core.errors import LeaseLost, StaleWrite, StoreUnavailable
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.node import clock
from airflow_exclusive.stores.postgres import database as database_module
from airflow_exclusive.stores.postgres.checks import check
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.effects import transaction
from airflow_exclusive.stores.postgres.purge import purge
from airflow_exclusive.stores.postgres.schema import upgrade
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, functions, statement
from tests.contract.test_effects import Attempt
from tests.support.ledger import JOB, NEXT_TICK, TASK, TICK, Ledger, request
from tests.support.proxied_node import Node, Truth, heard, keepers, settings
from tests.support.servers import OddPostgres, SystemPostgres
from tests.support.waiting import eventually

T = TypeVar("T", bound=Callable[..., None])

STOPS = {
    "fast shutdown": lambda server: server.daemon.stop(signal.SIGINT),
    "immediate shutdown": lambda server: server.daemon.stop(signal.SIGQUIT),
    "killed": lambda server: server.kill(),
}


@pytest.fixture
def node(redis_url: str, breakable: str) -> Node:
    return Node(redis_url, breakable)


@pytest.fixture
def truth(redis_url: str, breakable: str) -> Truth:
    return Truth(redis_url, breakable)


@contextmanager
def running(node: Node, **options: object) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=lambda: node.run(**options))  # type: ignore[arg-type]
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


# restart


@pytest.mark.parametrize("how", STOPS)
def test_a_restart_during_a_run_ends_nothing(
    node: Node, truth: Truth, breakable_postgres: OddPostgres, how: str
) -> None:
    def restart(lease: Lease) -> None:
        truth.wait_for_renewals(1)  # the keeper has a connection to lose
        STOPS[how](breakable_postgres)
        breakable_postgres.start()
        truth.wait_for_renewals(1)
        lease.ensure_held()

    node.before = restart
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_who_asks_or_ends_while_the_server_is_away_does_so_when_it_is_back(
    node: Node, truth: Truth, breakable_postgres: OddPostgres
) -> None:
    with JobGuard(redis=node.redis, postgres=node.postgres) as guard:
        breakable_postgres.kill()
        answers: list[object] = []
        asker = threading.Thread(target=lambda: answers.append(guard.admit(JOB, run_key=TICK, settings=settings())))
        asker.start()
        eventually(lambda: truth.lock() is not None)  # the gate has been passed, the truth is being asked
        breakable_postgres.start()
        asker.join(30)
        (admission,) = answers
        assert isinstance(admission, Admitted)
        breakable_postgres.kill()
        ending = threading.Thread(target=admission.lease.finish)
        ending.start()
        assert ending.is_alive()
        breakable_postgres.start()
        ending.join(30)
    assert truth.outcomes() == ["success"]
    truth.check_free()


@contextmanager
def frozen(server: OddPostgres) -> Iterator[None]:
    """Everything of the server stopped; its machine goes on acknowledging what is sent."""
    assert server.daemon is not None
    family = server.daemon.family()
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            process.resume()


def test_a_frozen_server_is_not_waited_for_beyond_the_limit(
    node: Node, truth: Truth, breakable_postgres: OddPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_exclusive.guard.ANSWER_WITHIN", 1.0)
    with JobGuard(redis=node.redis, postgres=node.postgres) as guard:
        guard.status(JOB)  # the connection is open when the server freezes
        monkeypatch.setattr(guard.statuses.database, "retry_for", 0.5)
        monkeypatch.setattr(guard.statuses.database, "_connect_timeout", 2)
        with frozen(breakable_postgres), pytest.raises(StoreUnavailable, match=r"doesn.t answer: "):
            guard.admit(JOB, run_key=TICK, settings=settings())
        eventually(lambda: truth.lock() is None)  # given back, so that nobody waits for the ttl
        # what was asked before the freeze may have been answered to nobody: such a claim lapses
        admission = guard.admit(JOB, run_key=TICK, wait=30, settings=settings())
        assert isinstance(admission, Admitted)
        admission.lease.finish()
    assert truth.outcomes()[-1] == "success"
    truth.check_free()


def test_a_frozen_server_is_waited_for_half_a_minute_at_most(
    redis_url: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the limits in force, on a clock that stands still while nobody waits."""
    waited = [0.0]

    def wait(seconds: float) -> None:
        waited[0] += seconds

    def frozen(self: Database, text: str, params: object, answer_within: float) -> Any:
        wait(answer_within if self._connection else self._connect_timeout)
        raise StoreUnavailable("no answer")

    with JobGuard(redis=redis_url, postgres=database) as guard:
        guard.status(JOB)  # the connection is open when the server freezes
        monkeypatch.setattr(Database, "_execute", frozen)
        monkeypatch.setattr(database_module, "time", SimpleNamespace(monotonic=lambda: waited[0], sleep=wait))
        with pytest.raises(StoreUnavailable, match="no answer"):
            guard.admit(JOB, run_key=TICK)
    assert 25 < waited[0] < 35


# a backend that is ended in the middle of a statement

TABLE = {
    "claim": "scheduled_job_status",
    "look": "scheduled_job_status",
    "renew": "scheduled_job_status",
    "held": "scheduled_job_status",
    "finish": "scheduled_job_status",
    "refuse": "scheduled_job_refusal",
    "confirm": "scheduled_job_run",
    "history": "scheduled_job_run",
    "refusals": "scheduled_job_refusal",
    "status": "scheduled_job_status",
    "release": "scheduled_job_run",
    "left_behind": "scheduled_job_refusal",
    "withdraw": "scheduled_job_refusal",
    "fence": "scheduled_job_fence",
    "mark": "scheduled_job_effect",
    "intact": "scheduled_job_effect",
    "purge_runs": "scheduled_job_run",
    "purge_runs_and_marks": "scheduled_job_run",
    "purge_refusals": "scheduled_job_refusal",
    "purge_effects": "scheduled_job_effect",
    "doctor_jobs": "scheduled_job_status",
    "migrations_applied": "schema_migration",
}
OF_NO_TABLE = {"begin", "doctor", "doctor_backend", "doctor_functions", "doctor_privileges", "now"}
"""They wait for nobody."""
HOWS = ["pg_cancel_backend", "pg_terminate_backend"]
STRUCK: set[str] = set()
"""By the tests below."""


def struck(*names: str) -> Callable[[T], T]:
    """The test strikes each of these statements, by its `name`, in each of the ways."""
    STRUCK.update(names)

    def parametrized(test: T) -> T:
        return pytest.mark.parametrize("how", HOWS)(pytest.mark.parametrize("name", names)(test))

    return parametrized


@contextmanager
def blocked(dsn: str, table: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[psycopg.Connection]:
    """Nobody else gets at the table until the rollback; in mode EXCLUSIVE nobody changes it."""
    with psycopg.connect(dsn) as conn:
        conn.execute(f"LOCK TABLE exclusive.{table} IN {mode} MODE".encode())
        yield conn
        conn.rollback()


def strike(dsn: str, name: str, how: str) -> None:
    """End the statement `name` of whoever waits for a lock with it; "": whichever it is."""
    start = statement(name, DEFAULT_SCHEMA).split("%(")[0][:1000] if name else ""  # of more the server doesn't tell
    find = (
        f"SELECT {how}(pid) FROM pg_stat_activity"
        " WHERE datname = %s AND wait_event_type = 'Lock' AND starts_with(query, %s)"
    )
    database = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as watcher:  # where nothing is locked
        eventually(lambda: watcher.execute(find.encode(), [database, start]).rowcount)


@struck("claim")
def test_a_claim_that_is_struck_is_made_again(node: Node, truth: Truth, name: str, how: str) -> None:
    with blocked(node.postgres, TABLE[name]) as lock, running(node):
        strike(node.postgres, name, how)
        lock.rollback()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


@struck("renew", "finish")
def test_a_renewal_or_an_end_that_is_struck_is_made_again(node: Node, truth: Truth, name: str, how: str) -> None:
    admitted, go_on = threading.Event(), threading.Event()
    node.ttl = 8

    def wait(lease: Lease) -> None:
        admitted.set()
        assert go_on.wait(30)
        lease.ensure_held()

    if name == "renew":
        node.before = wait
    else:
        work = node.work
        node.work = lambda lease: (work(lease), wait(lease))  # type: ignore[method-assign,assignment,return-value]
    with running(node):
        assert admitted.wait(20)
        with blocked(node.postgres, TABLE[name]):
            if name == "finish":
                go_on.set()
            strike(node.postgres, name, how)
        go_on.set()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


@struck("held")
def test_a_job_with_a_fixed_lease_works_on_though_its_keepers_question_is_struck(
    node: Node, truth: Truth, name: str, how: str
) -> None:
    node.ttl, node.policies = 18, {"renew": False}

    def ask(lease: Lease) -> None:
        with blocked(node.postgres, TABLE[name]):
            strike(node.postgres, name, how)
            heard(lease)
        lease.ensure_held()

    node.before = ask
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


@struck("look", "refuse")
def test_a_refusal_that_is_struck_is_given_all_the_same(node: Node, truth: Truth, name: str, how: str) -> None:
    answers: list[object] = []

    def ask() -> None:
        with JobGuard(redis=node.redis, postgres=node.postgres) as guard:
            answers.append(guard.admit(JOB, run_key=TICK, settings=settings()))

    with truth.guard() as other:
        runner = other.admit(JOB, run_key=NEXT_TICK, settings=settings(60))
        assert isinstance(runner, Admitted)
        with blocked(node.postgres, TABLE[name]):
            asker = threading.Thread(target=ask)
            asker.start()
            strike(node.postgres, name, how)
        asker.join(30)
        assert [type(answer) for answer in answers] == [Busy]
        assert [refusal.reason for refusal in other.refusals(JOB)] == ["busy"]
        runner.lease.finish()
    assert truth.lock() is None


@struck("left_behind")
def test_who_meets_a_lock_that_was_left_frees_it_though_its_question_is_struck(
    node: Node, truth: Truth, name: str, how: str
) -> None:
    node.run()
    with truth.guard() as other:
        (ended,) = other.history(JOB)
        other.locks.acquire(JOB, ended.owner, 60)
    with blocked(node.postgres, TABLE[name]) as lock:
        asker = threading.Thread(target=node.run, args=[NEXT_TICK])
        asker.start()
        strike(node.postgres, name, how)
        lock.rollback()
        asker.join(30)
    assert (node.errors, node.ran) == ([], [1, 2])


@struck("withdraw")
def test_a_withdrawal_that_is_struck_is_made_again(node: Node, truth: Truth, name: str, how: str) -> None:
    ledger = Ledger(node.postgres)
    asked = request()
    ledger.statuses.claim(asked, settings(3600))
    leaver = threading.Thread(target=ledger.statuses.withdraw, args=[asked, "told to stop"])
    with blocked(node.postgres, TABLE[name]):
        leaver.start()
        strike(node.postgres, name, how)
    leaver.join(30)
    assert truth.outcomes() == ["failed"]
    ledger.close()


@struck("fence", "mark")
def test_an_effect_that_is_struck_is_made_once_by_the_next_try(node: Node, truth: Truth, name: str, how: str) -> None:
    with blocked(node.postgres, TABLE[name]) as lock, running(node):
        strike(node.postgres, name, how)
        lock.rollback()
    assert (len(node.errors), node.ran) == (1, [1, 2])
    assert truth.outcomes() == ["failed", "success"]
    truth.check_done_once()


@struck("intact")
def test_an_effect_whose_last_check_is_struck_is_made_once_by_the_next_try(
    node: Node, truth: Truth, name: str, how: str
) -> None:
    """Its own locks let it pass at the table: it waits where the planner looks up what is known of its columns."""
    written, go_on = threading.Event(), threading.Event()

    def work(lease: Lease) -> None:
        node.ran.append(lease.token)
        with psycopg.connect(node.postgres) as conn, lease.transaction(conn) as tx:
            tx.execute("INSERT INTO effect (token) VALUES (%(token)s)", {"token": lease.token})
            written.set()
            assert go_on.wait(30)

    node.work = work  # type: ignore[method-assign]
    with running(node):
        assert written.wait(20)
        with psycopg.connect(node.postgres) as lock:
            lock.execute("LOCK TABLE pg_statistic IN ACCESS EXCLUSIVE MODE")
            go_on.set()
            strike(node.postgres, name, how)
            lock.rollback()
    assert (len(node.errors), node.ran) == (1, [1, 2])
    assert truth.outcomes() == ["failed", "success"]
    truth.check_done_once()


@struck("history", "refusals", "status")
def test_a_question_that_is_struck_is_answered(node: Node, truth: Truth, name: str, how: str) -> None:
    node.run()
    node.run()  # refused
    answers: list[Sequence[object]] = []
    with JobGuard(redis=node.redis, postgres=node.postgres) as guard:
        asker = threading.Thread(target=lambda: answers.append(getattr(guard, name)(JOB)))
        with blocked(node.postgres, TABLE[name]):
            asker.start()
            strike(node.postgres, name, how)
        asker.join(30)
    assert [len(answer) for answer in answers] == [1]


@struck("migrations_applied", "doctor_jobs")
def test_a_doctor_that_is_struck_finds_the_same(node: Node, truth: Truth, name: str, how: str) -> None:
    node.run()
    seen: list[tuple[str, str]] = []
    doctor = threading.Thread(target=lambda: seen.extend(verdicts(node.postgres)))
    with blocked(node.postgres, TABLE[name]):
        doctor.start()
        strike(node.postgres, name, how)
    doctor.join(30)
    assert seen == verdicts(node.postgres)


def verdicts(dsn: str) -> list[tuple[str, str]]:
    with closing(Database(dsn)) as database:
        return [(found.subject, found.level) for found in check(database)]


OLD_RUNS = {"runs": 1, "refusals": 1}
OLD = {"purge_runs_and_marks": OLD_RUNS, "purge_refusals": OLD_RUNS, "purge_effects": {"effects": 2}}
"""What is deleted, when that statement is struck."""


@struck(*OLD)
def test_a_purge_that_is_struck_deletes_and_counts_everything_once(
    node: Node, truth: Truth, name: str, how: str
) -> None:
    for run_key in (TICK, NEXT_TICK, TICK):  # the last one is refused
        node.run(run_key)
    deleted: list[dict[str, int]] = []
    later = datetime.now(timezone.utc) + timedelta(days=1)
    kind = "effects" if name == "purge_effects" else "status"
    with closing(Database(node.postgres)) as database:
        cleaner = threading.Thread(target=lambda: deleted.append(purge(database, kind, later)))
        with blocked(node.postgres, TABLE[name]):
            cleaner.start()
            strike(node.postgres, name, how)
        cleaner.join(30)
    assert deleted == [OLD[name]]


@struck("purge_runs")
def test_a_purge_that_is_struck_where_the_marks_are_none_of_its_business_leaves_them(
    node: Node, truth: Truth, plain: psycopg.Connection, name: str, how: str
) -> None:
    for run_key in (TICK, NEXT_TICK, TICK):  # the last one is refused
        node.run(run_key)
    plain.execute("REVOKE ALL ON exclusive.scheduled_job_effect FROM plain")
    deleted: list[dict[str, int]] = []
    later = datetime.now(timezone.utc) + timedelta(days=1)
    with closing(Database(node.postgres)) as database:
        cleaner = threading.Thread(target=lambda: deleted.append(purge(database, "status", later)))
        with psycopg.connect(truth.postgres) as lock:  # of rows: a table's would be waited for before it is refused
            lock.execute(f"SELECT FROM exclusive.{TABLE[name]} FOR UPDATE".encode())
            cleaner.start()
            strike(truth.postgres, name, how)
            lock.rollback()
        cleaner.join(30)
    assert deleted == [OLD_RUNS]
    assert plain.execute("SELECT FROM exclusive.scheduled_job_effect").rowcount == 2


@pytest.fixture
def bare(breakable_postgres: OddPostgres) -> Iterator[str]:
    """DSN of a database with nothing in it, this test's own."""
    name = f"exclusive_test_{uuid.uuid4().hex[:12]}"
    yield breakable_postgres.create_database(name)
    breakable_postgres.drop_database(name)


ONLY_SCHEMA, STATUS_TABLES = "only the schema", "the status tables"
HALFWAY = {
    "schema": ("", "CREATE SCHEMA exclusive"),
    "migration_history": (ONLY_SCHEMA, "CREATE TABLE exclusive.schema_migration ()"),
    "migrations_applied": (STATUS_TABLES, "LOCK TABLE exclusive.schema_migration IN ACCESS EXCLUSIVE MODE"),
    "migration_applied": (STATUS_TABLES, "LOCK TABLE exclusive.schema_migration IN SHARE MODE"),
    "migration of status": (ONLY_SCHEMA, "CREATE TABLE exclusive.scheduled_job_refusal ()"),
    "migration of effects": (ONLY_SCHEMA, "CREATE TABLE exclusive.scheduled_job_fence ()"),
    "function": (ONLY_SCHEMA, functions(DEFAULT_SCHEMA)[-1]),
}
"""What is there before, and what somebody else does at the same time, so that `init` waits for it at this step."""
STATEMENTS = {Path(file.name).stem for file in (files("airflow_exclusive.stores.postgres") / "sql").iterdir()}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("step", HALFWAY)
def test_an_init_that_is_struck_halfway_leaves_nothing_half_made_and_may_be_repeated(
    bare: str, step: str, how: str
) -> None:
    there, meanwhile = HALFWAY[step]
    errors: list[Exception] = []

    def init() -> None:
        try:
            upgrade(bare)
        except Exception as error:
            errors.append(error)

    if there == ONLY_SCHEMA:
        with psycopg.connect(bare) as conn:
            conn.execute("CREATE SCHEMA exclusive")
    elif there == STATUS_TABLES:
        upgrade(bare, effects=False)
    before = made(bare)
    person = threading.Thread(target=init)
    with psycopg.connect(bare) as conn:
        conn.execute(meanwhile.encode())
        person.start()
        strike(bare, step if step in STATEMENTS else "", how)
        person.join(30)
        conn.rollback()
    assert [type(error) for error in errors] == [StoreUnavailable]
    assert made(bare) == before
    assert upgrade(bare) == (["effects 0001"] if there == STATUS_TABLES else ["status 0001", "effects 0001"])
    assert {level for _, level in verdicts(bare)} == {"ok"}


def made(dsn: str) -> list[tuple[object, ...]]:
    """Everything in our schema."""
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            "SELECT n.nspname, o.name FROM pg_namespace n LEFT JOIN ("
            " SELECT relnamespace, relname FROM pg_class UNION ALL SELECT pronamespace, proname FROM pg_proc"
            ") AS o (namespace, name) ON o.namespace = n.oid WHERE n.nspname = 'exclusive' ORDER BY 2"
        ).fetchall()


def test_no_statement_is_forgotten() -> None:
    assert STRUCK | (STATEMENTS & set(HALFWAY)) | OF_NO_TABLE == STATEMENTS
    assert set(TABLE) == STRUCK


@struck("confirm")
def test_a_confirmation_that_is_struck_is_noted(node: Node, truth: Truth, name: str, how: str) -> None:
    cleared = replace(TASK, try_number=2, cleared_tries=1)
    with truth.guard() as guard:
        admission = guard.admit(JOB, run_key=TICK, source=TASK, settings=settings())
        assert isinstance(admission, Admitted)
        admission.lease.finish()
        listener = threading.Thread(target=guard.confirm, args=[JOB, TICK, TASK])
        with blocked(node.postgres, TABLE[name]):
            listener.start()
            strike(node.postgres, name, how)
        listener.join(30)
        assert guard.peek(JOB, run_key=TICK, source=cleared) is None


@struck("release")
def test_a_release_by_hand_that_is_struck_halfway_is_made_as_a_whole(
    node: Node, truth: Truth, name: str, how: str
) -> None:
    told: list[Any] = []
    with truth.guard() as guard, truth.guard() as other:
        runner = other.admit(JOB, run_key=TICK, settings=settings(60))
        assert isinstance(runner, Admitted)
        person = threading.Thread(target=lambda: told.append(guard.release(JOB, reason="node-a burns")))
        with blocked(node.postgres, TABLE[name], "EXCLUSIVE"):  # the job's row can be changed, its attempt read only
            person.start()
            strike(node.postgres, name, how)
        person.join(30)
        assert [attempt.owner for attempt in told] == [runner.lease.owner]
        assert truth.lock() is None
        assert [row.status for row in guard.status(JOB)] == ["failed"]
        with pytest.raises(StaleWrite):
            runner.lease.finish()
    assert truth.outcomes() == ["released"]


# a server that may only be read


@contextmanager
def read_only(server: OddPostgres) -> Iterator[Callable[[], None]]:
    def switch(on: bool) -> None:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("SET default_transaction_read_only = off")
            conn.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}".encode())
            conn.execute("SELECT pg_reload_conf()")
        wanted = ("on" if on else "off",)
        eventually(lambda: _setting(server, "default_transaction_read_only") == wanted)

    switch(True)
    try:
        yield lambda: switch(False)
    finally:
        switch(False)


def _setting(server: OddPostgres, name: str) -> object:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        return conn.execute(f"SHOW {name}".encode()).fetchone()


def test_who_asks_a_read_only_server_is_admitted_when_it_can_be_written(
    node: Node, truth: Truth, breakable_postgres: OddPostgres
) -> None:
    told = "in a read-only transaction"
    with read_only(breakable_postgres) as end, running(node):
        before = breakable_postgres.log().count(told)
        eventually(lambda: breakable_postgres.log().count(told) > before + 1)
        assert node.ran == []
        end()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_a_run_whose_server_becomes_read_only_stops_in_time_and_is_not_counted_as_done(
    node: Node, truth: Truth, breakable_postgres: OddPostgres
) -> None:
    node.ttl = 6

    def fail_over(lease: Lease) -> None:
        if lease.attempt > 1:
            return
        began = clock()
        with read_only(breakable_postgres):
            eventually(lambda: lease.lost)
            assert "read-only" in lease.lost
            assert clock() - began < node.ttl
        lease.ensure_held()

    node.before = fail_over
    node.run()
    assert [type(error) for error in node.errors] == [LeaseLost]
    assert node.ran == [1, 2]
    truth.check_done_once()


# failover to a standby


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[SystemPostgres, SystemPostgres]]:
    """A primary that commits nothing before its standby has it, and the standby."""
    primary, standby = SystemPostgres(tmp_path / "primary", durable=False), Standby(tmp_path / "standby")
    try:
        primary.start()
        yield primary, standby.follow(primary)
    finally:
        standby.remove()
        primary.remove()


class Standby(SystemPostgres):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, durable=False)

    def follow(self, primary: SystemPostgres) -> Standby:
        self.folder.mkdir(parents=True)
        self._copy(primary)
        self.start()
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            conn.execute("SELECT pg_reload_conf()")
            synchronous = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
            eventually(lambda: conn.execute(synchronous).rowcount == 1)
        return self

    def promote(self) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            assert conn.execute("SELECT pg_promote(true, 30)").fetchone() == (True,)

    def _copy(self, primary: SystemPostgres) -> None:
        command = [self._server_installation() / "bin" / "pg_basebackup", "-D", self.data_folder, "-R", "-X", "stream"]
        # The copy is made where the server's own user can get at it.
        self._home.mkdir(parents=True, exist_ok=True)
        fresh = self.data_folder
        fresh.mkdir(mode=0o700)
        if self._account is not None:
            self._account.own(fresh)
        done = subprocess.run(
            [*command, "-c", "fast", "-d", primary.dsn()],
            cwd=fresh,
            capture_output=True,
            text=True,
            check=False,
            **(self._account.popen_arguments() if self._account else {}),
        )
        assert done.returncode == 0, done.stderr


def test_a_run_goes_on_when_a_standby_takes_over(redis_url: str, pair: tuple[SystemPostgres, Standby]) -> None:
    primary, standby = pair
    upgrade(primary.create_database("exclusive"))
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in pair)
    both = f"postgresql://postgres@{hosts}/exclusive?target_session_attrs=read-write"
    truth = Truth(redis_url, both)

    def fail_over(lease: Lease) -> None:
        truth.wait_for_renewals(1)
        primary.kill()
        standby.promote()
        truth.wait_for_renewals(1)
        lease.ensure_held()

    node = Node(redis_url, both, ttl=8, before=fail_over)
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_standbys_that_no_commit_waits_for_are_a_warning(pair: tuple[SystemPostgres, Standby]) -> None:
    primary, _ = pair
    dsn = primary.create_database("exclusive")
    upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA exclusive TO plain")
        plain = dsn.replace("postgres@", "plain@")
        assert warnings(dsn) == warnings(plain) == []
        conn.execute("ALTER DATABASE exclusive SET synchronous_commit = local")
        (found,) = warnings(plain)
        assert "synchronous_commit is local, which waits for no standby" in found
        conn.execute("ALTER DATABASE exclusive RESET synchronous_commit")
        assert warnings(plain) == []
        conn.execute("ALTER SYSTEM RESET synchronous_standby_names")
        conn.execute("SELECT pg_reload_conf()")
        (found,) = eventually(lambda: warnings(plain))
        assert "standbys (1) follow, and no commit waits for them" in found


def warnings(dsn: str) -> list[str]:
    database = Database(dsn, retry_for=0.0)
    found = [found.text for found in check(database) if found.level == "warning"]
    database.close()
    return found


# a server that has no connection left


def test_connections_that_are_nearly_used_up_are_a_warning(breakable: str) -> None:
    with ExitStack() as others:
        for _ in range(15):
            others.enter_context(psycopg.connect(breakable))
        assert warnings(breakable) == []  # the server's own processes aren't counted
        for _ in range(5):
            others.enter_context(psycopg.connect(breakable))
        assert warnings(breakable) == ["21 of 22 connections are in use"]


NO_ROOM = "remaining connection slots are reserved"


@pytest.fixture
def plain(node: Node) -> Iterator[psycopg.Connection]:
    """The node works as a role with no connections reserved for it; this one is the superuser's."""
    with psycopg.connect(node.postgres, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS effect (token bigint); CREATE ROLE plain LOGIN")
        conn.execute("GRANT ALL ON ALL TABLES IN SCHEMA exclusive, public TO plain")
        conn.execute("GRANT USAGE ON SCHEMA exclusive TO plain")
        node.postgres = node.postgres.replace("postgres@", "plain@")
        yield conn
        conn.execute("DROP OWNED BY plain; DROP ROLE plain")


def take_all(taken: ExitStack, dsn: str) -> None:
    def take() -> None:
        while True:
            taken.enter_context(psycopg.connect(dsn))

    with pytest.raises(psycopg.OperationalError, match=NO_ROOM):
        take()


def crowd_out(taken: ExitStack, dsn: str, superuser: psycopg.Connection) -> None:
    """All connections are taken, those that jobs and their keepers had too."""
    end = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE usename = 'plain' AND application_name = 'airflow-exclusive'"
    )
    take_all(taken, dsn)
    while superuser.execute(end).rowcount:
        take_all(taken, dsn)


def turned_away(server: OddPostgres) -> None:
    """Wait until somebody has asked for a connection, and once more."""
    before = server.log().count(NO_ROOM)
    eventually(lambda: server.log().count(NO_ROOM) > before + 1)


def test_who_finds_no_free_connection_is_admitted_when_there_is_one(
    node: Node, truth: Truth, plain: psycopg.Connection, breakable_postgres: OddPostgres
) -> None:
    with ExitStack() as taken:
        take_all(taken, node.postgres)
        with running(node):
            turned_away(breakable_postgres)
            assert node.ran == []
            taken.close()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_renewals_that_find_no_free_connection_go_on_when_there_is_one(
    node: Node, truth: Truth, plain: psycopg.Connection, breakable_postgres: OddPostgres
) -> None:
    def crowd(lease: Lease) -> None:
        with ExitStack() as taken:
            crowd_out(taken, node.postgres, plain)
            turned_away(breakable_postgres)
            lease.ensure_held()
        truth.wait_for_renewals(1)
        lease.ensure_held()

    node.before = crowd
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_an_end_that_finds_no_free_connection_is_recorded_when_there_is_one(
    node: Node, truth: Truth, plain: psycopg.Connection, breakable_postgres: OddPostgres
) -> None:
    crowded = threading.Event()
    work = node.work
    with ExitStack() as taken:

        def crowd(lease: Lease) -> None:
            work(lease)
            crowd_out(taken, node.postgres, plain)
            crowded.set()

        node.work = crowd  # type: ignore[method-assign]
        with running(node):
            assert crowded.wait(30)
            eventually(lambda: not keepers())  # from here on it is the job that asks
            turned_away(breakable_postgres)
            taken.close()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


# privileges


def documented_roles() -> tuple[str, list[str]]:
    """The statements of docs/operations.md: those before `init`, and each of those after it."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    block = text.split("```sql\n", 1)[1].split("```", 1)[0]
    before, after = block.split("-- then, as exclusive_owner: airflow-exclusive init\n")
    return before, [line.split(";")[0] for line in after.splitlines() if line.strip()]


def test_the_documented_privileges_are_enough_and_none_is_too_many(
    redis_url: str, breakable_postgres: OddPostgres
) -> None:
    dsn = breakable_postgres.create_database("status")
    before, grants = documented_roles()
    assert len(grants) == 8
    with psycopg.connect(dsn, autocommit=True) as conn:
        try:
            conn.execute(before.encode())
            # By default everybody may call functions; whoever hardens a server takes that away.
            conn.execute("ALTER DEFAULT PRIVILEGES FOR ROLE exclusive_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
            upgrade(dsn.replace("postgres@", "exclusive_owner@"))
            for grant in grants:
                conn.execute(grant.encode())
            conn.execute("CREATE TABLE effect (token bigint); GRANT SELECT, INSERT ON effect TO exclusive_runtime")
            runtime = dsn.replace("postgres@", "exclusive_runtime@")
            node, truth = Node(redis_url, runtime), Truth(redis_url, dsn)
            node.run()
            assert (node.errors, node.ran) == ([], [1])
            truth.check_done_once()
            assert everything(redis_url, runtime) == []
            for grant in one_by_one(grants):
                conn.execute(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM ").encode())
                assert everything(redis_url, runtime) != [], f"not needed: {grant}"
                conn.execute(grant.encode())
            assert everything(redis_url, runtime) == []
        finally:
            conn.execute(
                "REASSIGN OWNED BY exclusive_owner TO postgres; DROP OWNED BY exclusive_owner, exclusive_runtime"
            )
            conn.execute("DROP ROLE exclusive_owner, exclusive_runtime")
    breakable_postgres.drop_database("status")


def one_by_one(grants: list[str]) -> Iterator[str]:
    for grant in grants:
        privileges, _, target = grant.removeprefix("GRANT ").partition(" ON ")
        for privilege in privileges.split(", "):
            yield f"GRANT {privilege} ON {target}"


def everything(redis_url: str, dsn: str) -> list[Exception]:
    """All that a runtime role does, and what went wrong with it."""
    errors: list[Exception] = []
    ledger = Ledger(dsn, retry_for=0.0)
    job = f"job {uuid.uuid4()}"

    def effect() -> None:
        with psycopg.connect(dsn) as conn, transaction(Attempt(job_name=job), conn, "main"):
            pass

    try:
        asked = request(job=job)
        claim = ledger.statuses.claim(asked, settings())
        ledger.statuses.look(asked)
        assert isinstance(claim, Claim)
        ledger.statuses.renew(claim, 30)
        ledger.statuses.finish(claim, "failed", None, 0)
        ledger.statuses.refuse(request(job=job), "busy", "it has it")
        ledger.statuses.confirm(asked)
        ledger.statuses.release(job, claim.attempt.owner, "to be sure")
        ledger.statuses.history(job, None, 5)
        ledger.statuses.refusals(job, None, 5)
        ledger.statuses.status(None)
        effect()
        effect()
        complaints = [found for found in check(ledger.statuses.database) if found.level != "ok"]
        assert not complaints, complaints
    except Exception as error:
        errors.append(error)
    ledger.close()
    return errors
