"""Exactly-once effects: the writes, their mark and the token are committed together or not at all."""

from __future__ import annotations

import asyncio
import re
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import psycopg2  # type: ignore[import-untyped]
import pytest
import sqlalchemy
from sqlalchemy.orm import Session, registry

from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, LeaseLost, StaleWrite, StoreMisconfigured
from airflow_exclusive.stores.postgres.effects import transaction
from airflow_exclusive.stores.postgres.schema import upgrade
from deploy.embedded.postgres import PostgresServer
from deploy.embedded.release import PROJECT
from tests.support.ledger import Ledger, request
from tests.support.waiting import eventually

ADD = "UPDATE total SET flights = flights + %(n)s"


@dataclass
class Attempt:
    """Who writes; `lost`: raised when the lease is checked."""

    token: int = 1
    run_key: str = "2013-01-02T00:00:00Z"
    generation: int = 1
    job_name: str = "备份 'daily' {x}:%s"
    lost: LeaseLost | None = None

    def ensure_held(self) -> None:
        if self.lost:
            raise self.lost


NEWEST_DRIVER = "psycopg" if sqlalchemy.__version__ >= "2" else "psycopg2"
"""SQLAlchemy 1.4, that of Airflow 2, knows no psycopg 3."""


@contextmanager
def opened_psycopg(dsn: str, *, autocommit: bool) -> Iterator[Any]:
    with psycopg.connect(dsn, autocommit=autocommit) as conn:
        yield conn


@contextmanager
def opened_psycopg2(dsn: str, *, autocommit: bool) -> Iterator[Any]:
    conn = psycopg2.connect(dsn)
    conn.autocommit = autocommit
    try:
        yield conn
    finally:
        conn.close()


@contextmanager
def opened_sqlalchemy(dsn: str, *, driver: str, session: bool = False, autocommit: bool = False) -> Iterator[Any]:
    options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
    engine = sqlalchemy.create_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"), **options)
    with Session(engine) if session else engine.connect() as conn:
        yield conn
    engine.dispose()


KINDS: dict[str, Callable[[str], Any]] = {
    "psycopg": lambda dsn: opened_psycopg(dsn, autocommit=False),
    "psycopg autocommit": lambda dsn: opened_psycopg(dsn, autocommit=True),
    "psycopg2": lambda dsn: opened_psycopg2(dsn, autocommit=False),
    "psycopg2 autocommit": lambda dsn: opened_psycopg2(dsn, autocommit=True),
    "SQLAlchemy connection": lambda dsn: opened_sqlalchemy(dsn, driver="psycopg2"),
    "SQLAlchemy connection on its newest driver": lambda dsn: opened_sqlalchemy(dsn, driver=NEWEST_DRIVER),
    "SQLAlchemy session": lambda dsn: opened_sqlalchemy(dsn, driver="psycopg2", session=True),
}


@contextmanager
def made_database(server: PostgresServer) -> Iterator[str]:
    """A database that receives effects and holds no status tables."""
    name = f"exclusive_effects_{uuid.uuid4().hex[:12]}"
    dsn = server.create_database(name)
    upgrade(dsn, status=False)
    yield dsn
    server.drop_database(name)


@pytest.fixture(scope="module")
def effects_database(postgres_server: PostgresServer) -> Iterator[str]:
    """One for all tests, emptied for each."""
    with made_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture
def connection(effects_database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(effects_database, autocommit=True) as opened:
        yield opened


@pytest.fixture(params=list(KINDS))
def conn(request: pytest.FixtureRequest, effects_database: str, total: Callable[[], int]) -> Iterator[Any]:
    with KINDS[request.param](effects_database) as made:
        yield made


@pytest.fixture
def total(connection: psycopg.Connection) -> Callable[[], int]:
    """What others see of the effect."""
    connection.execute("TRUNCATE exclusive.scheduled_job_effect, exclusive.scheduled_job_fence")
    connection.execute("DROP TABLE IF EXISTS total; CREATE TABLE total (flights int); INSERT INTO total VALUES (0)")

    def read() -> int:
        row = connection.execute("SELECT flights FROM total").fetchone()
        assert row is not None
        return int(row[0])

    return read


def add(attempt: Attempt, conn: Any, step: str = "main", n: int = 1) -> bool:
    with transaction(attempt, conn, step) as tx:
        tx.execute(ADD, {"n": n})
    return tx.done


def test_the_writes_of_a_step_are_committed_at_its_end(conn: Any, total: Callable[[], int]) -> None:
    with transaction(Attempt(), conn, "main") as tx:
        tx.execute(ADD, {"n": 1})
        assert total() == 0
    assert not tx.done
    assert total() == 1


def test_a_step_that_was_committed_is_done_and_its_writes_are_rolled_back(conn: Any, total: Callable[[], int]) -> None:
    assert [add(Attempt(token), conn) for token in (1, 1, 2)] == [False, True, True]
    assert total() == 1


def test_a_connection_within_a_transaction_block_is_refused(effects_database: str, total: Callable[[], int]) -> None:
    with psycopg.connect(effects_database, autocommit=True) as conn, conn.transaction():
        with pytest.raises(InvalidSetting, match=r"conn=.* leave that one first"):
            add(Attempt(), conn)
        conn.execute(ADD.encode(), {"n": 5})
    assert total() == 5


def test_a_step_of_another_job_within_a_step_on_its_connection_is_refused(conn: Any, total: Callable[[], int]) -> None:
    """Its commit would be that of the outer one, before that one's end."""

    def nest() -> None:
        with transaction(Attempt(), conn, "main") as tx:
            tx.execute(ADD, {"n": 1})
            add(Attempt(job_name="another"), conn)

    with pytest.raises(InvalidSetting, match=r"^conn=.* is within a step already"):
        nest()
    assert total() == 0
    assert not add(Attempt(), conn)
    assert not add(Attempt(job_name="another"), conn)
    assert total() == 2


def test_a_step_within_a_step_of_its_job_is_refused_rather_than_kept_waiting_for_it(
    effects_database: str, total: Callable[[], int]
) -> None:
    with psycopg.connect(effects_database) as conn, psycopg.connect(effects_database) as other:
        other.execute("SET lock_timeout = '10s'")
        with transaction(Attempt(), conn, "outer") as tx:
            with pytest.raises(InvalidSetting, match=r"^step='inner': .* within step 'outer'"):
                add(Attempt(), other, "inner")
            tx.execute(ADD, {"n": 1})
        assert not add(Attempt(), other, "inner")
    assert total() == 2


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("driver", sorted({"psycopg2", NEWEST_DRIVER}))
def test_sqlalchemy_in_autocommit_mode_is_refused_and_told_what_to_give(
    effects_database: str, total: Callable[[], int], driver: str, session: bool
) -> None:
    """A rollback, or a flush at the commit, would go on where each statement is committed by itself."""
    with opened_sqlalchemy(effects_database, driver=driver, session=session, autocommit=True) as conn:
        with pytest.raises(InvalidSetting, match=r"^conn=.*: is in autocommit mode: .*READ COMMITTED"):
            add(Attempt(), conn)
        conn.execute(sqlalchemy.text("UPDATE total SET flights = 5"))
        assert total() == 5
        engine = (conn.get_bind() if session else conn.engine).execution_options(isolation_level="READ COMMITTED")
        with Session(engine) if session else engine.connect() as cured:
            add(Attempt(), cured)
    assert total() == 6


def test_other_steps_ticks_and_generations_are_effects_of_their_own(conn: Any, total: Callable[[], int]) -> None:
    add(Attempt(), conn)
    assert not add(Attempt(), conn, "second")
    assert not add(Attempt(generation=2), conn)
    assert not add(Attempt(run_key="2013-01-03T00:00:00Z"), conn)
    assert not add(Attempt(job_name="another"), conn)
    assert total() == 5


def test_a_stale_token_is_refused_before_the_block_and_writes_nothing(conn: Any, total: Callable[[], int]) -> None:
    for token in (1, 2):
        add(Attempt(token, run_key=f"tick {token}"), conn)
    began = []

    def write() -> None:
        with transaction(Attempt(token=1, run_key="another"), conn, "main"):
            began.append("the block")

    with pytest.raises(StaleWrite, match="a later attempt has written here, token 1 is refused"):
        write()
    assert began == []
    assert total() == 2


def test_a_block_that_raises_leaves_nothing_and_may_be_tried_again(conn: Any, total: Callable[[], int]) -> None:
    def fail() -> None:
        with transaction(Attempt(), conn, "main") as tx:
            tx.execute(ADD, {"n": 1})
            raise ValueError("no rows")

    with pytest.raises(ValueError, match="no rows"):
        fail()
    assert total() == 0
    assert not add(Attempt(), conn)
    assert total() == 1


def test_a_statement_that_fails_leaves_nothing_and_may_be_tried_again(conn: Any, total: Callable[[], int]) -> None:
    def fail() -> None:
        with transaction(Attempt(), conn, "main") as tx:
            tx.execute(ADD, {"n": 1})
            tx.execute("SELECT * FROM nowhere")

    with pytest.raises(Exception, match="nowhere"):
        fail()
    assert not add(Attempt(), conn)
    assert total() == 1


def test_a_lease_that_was_lost_in_the_block_commits_nothing(conn: Any, total: Callable[[], int]) -> None:
    attempt = Attempt()

    def lose() -> None:
        with transaction(attempt, conn, "main") as tx:
            tx.execute(ADD, {"n": 1})
            attempt.lost = LeaseLost("taken over")

    with pytest.raises(LeaseLost, match="taken over"):
        lose()
    assert total() == 0


def of_driver(conn: Any) -> Any:
    if hasattr(conn, "get_bind"):
        conn = conn.connection()
    return conn.connection.dbapi_connection if hasattr(conn, "exec_driver_sql") else conn


def ends_inside(how: str, conn: Any) -> None:
    """A block that writes, ends its transaction, and writes on where there is another one then."""
    with transaction(Attempt(), conn, "main") as tx:
        tx.execute(ADD, {"n": 1})
        getattr(conn if hasattr(conn, how) else conn.get_transaction(), how)()
        tx.execute(ADD, {"n": 1})


def test_an_error_that_the_block_swallows_is_no_success(conn: Any, total: Callable[[], int]) -> None:
    def swallow() -> None:
        with transaction(Attempt(), conn, "main") as tx:
            tx.execute(ADD, {"n": 1})
            with suppress(Exception):
                tx.execute("SELECT * FROM nowhere")

    with pytest.raises(ExclusiveError, match="let an error in the block end the block"):
        swallow()
    assert total() == 0
    assert not add(Attempt(), conn)
    assert total() == 1


def test_a_block_that_rolls_back_is_no_success(conn: Any, total: Callable[[], int]) -> None:
    with pytest.raises(ExclusiveError, match="neither commit nor roll back inside"):
        ends_inside("rollback", conn)
    assert total() == 0
    assert not add(Attempt(), conn)
    assert total() == 1


def test_a_block_that_commits_is_told_so_and_its_step_is_done(conn: Any, total: Callable[[], int]) -> None:
    with pytest.raises(ExclusiveError, match="neither commit nor roll back inside"):
        ends_inside("commit", conn)
    assert add(Attempt(), conn)
    assert total() == 1


def test_a_block_that_rolls_back_to_a_savepoint_from_before_is_no_success(
    effects_database: str, total: Callable[[], int]
) -> None:
    def roll_back(conn: psycopg.Connection) -> None:
        conn.execute("SAVEPOINT before")
        with transaction(Attempt(), conn, "main") as tx:
            tx.execute(ADD, {"n": 1})
            tx.execute("ROLLBACK TO before")
            tx.execute(ADD, {"n": 1})

    with psycopg.connect(effects_database) as conn:
        with pytest.raises(ExclusiveError, match="neither commit nor roll back inside"):
            roll_back(conn)
        assert not add(Attempt(), conn)
    assert total() == 1


@contextmanager
def within_a_savepoint(session: Session) -> Iterator[Session]:
    session.begin_nested()
    yield session


@contextmanager
def within_a_subtransaction(session: Session) -> Iterator[Session]:
    session.connection()
    if sqlalchemy.__version__ < "2":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session.begin(subtransactions=True)
    yield session


@contextmanager
def within_the_transaction_of_its_connection(session: Session) -> Iterator[Session]:
    with session.get_bind().connect() as conn, Session(conn) as joined:
        conn.begin()
        yield joined


@pytest.mark.parametrize(
    "nested", [within_a_savepoint, within_a_subtransaction, within_the_transaction_of_its_connection]
)
def test_a_step_that_a_session_leaves_to_another_transaction_is_no_success(
    effects_database: str, total: Callable[[], int], nested: Callable[[Session], Any]
) -> None:
    told = []
    with opened_sqlalchemy(effects_database, driver=NEWEST_DRIVER, session=True) as session:
        with suppress(InvalidSetting), nested(session) as inner:
            add(Attempt(), inner)
            told.append("success")
        session.close()
        assert total() == len(told)
        assert add(Attempt(), session) is bool(told)
    assert total() == 1


@pytest.mark.usefixtures("total")
def test_a_session_that_is_nested_is_told_what_to_give(effects_database: str) -> None:
    with (
        opened_sqlalchemy(effects_database, driver=NEWEST_DRIVER, session=True) as session,
        pytest.raises(InvalidSetting, match=r"^conn=.*: has left the commit .*: give one that isn't nested"),
        within_the_transaction_of_its_connection(session) as joined,
    ):
        add(Attempt(), joined)


class Once(registry().generate_base()):  # type: ignore[misc]
    __tablename__ = "once"
    id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)


@pytest.mark.parametrize("driver", sorted({"psycopg2", NEWEST_DRIVER}))
def test_a_session_whose_flush_fails_is_rolled_back_and_its_connection_usable(
    effects_database: str, connection: psycopg.Connection, total: Callable[[], int], driver: str
) -> None:
    connection.execute("DROP TABLE IF EXISTS once; CREATE TABLE once (id int PRIMARY KEY); INSERT INTO once VALUES (1)")

    def flush(session: Any) -> None:
        with transaction(Attempt(), session, "main") as tx:
            tx.execute(ADD, {"n": 1})
            session.add(Once(id=1))
            session.flush()

    with opened_sqlalchemy(effects_database, driver=driver, session=True) as session:
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            flush(session)
        assert total() == 0
        assert not add(Attempt(), session)
        engine = session.get_bind()
        session.close()
        with Session(engine) as next_one:  # on the same connection, from the pool
            assert next_one.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
    assert total() == 1


@pytest.mark.parametrize("driver", sorted({"psycopg2", NEWEST_DRIVER}))
def test_a_connection_may_stream_its_results(effects_database: str, total: Callable[[], int], driver: str) -> None:
    with opened_sqlalchemy(effects_database, driver=driver) as conn:
        streaming = conn.execution_options(stream_results=True)
        with transaction(Attempt(), streaming, "main") as tx:
            rows = streaming.execute(sqlalchemy.text("SELECT generate_series(1, 9999)"))
            assert rows.fetchone() == (1,)
            tx.execute(ADD, {"n": 1})
            assert rows.fetchone() == (2,)
        rows.close()
        assert add(Attempt(), streaming)
    assert total() == 1


def test_savepoints_within_the_block_are_its_own_affair(conn: Any, total: Callable[[], int]) -> None:
    with transaction(Attempt(), conn, "main") as tx:
        tx.execute("SAVEPOINT small")
        with suppress(Exception):
            tx.execute("SELECT * FROM nowhere")
        tx.execute("ROLLBACK TO small")
        tx.execute(ADD, {"n": 1})
    assert total() == 1


def test_the_connection_is_left_as_it_was(conn: Any, total: Callable[[], int]) -> None:
    add(Attempt(), conn)
    raw = of_driver(conn)
    cursor = raw.cursor()
    cursor.execute("UPDATE total SET flights = 7")
    cursor.close()
    assert total() == (7 if raw.autocommit else 1)


def test_without_its_tables_it_says_what_to_run(empty_database: str) -> None:
    with psycopg.connect(empty_database) as conn, pytest.raises(StoreMisconfigured, match="init --effects"):
        add(Attempt(), conn)


def test_without_its_tables_in_another_driver_it_says_so_too(empty_database: str) -> None:
    opened = opened_sqlalchemy(empty_database, driver="psycopg2")
    with opened as conn, pytest.raises(StoreMisconfigured, match="init --effects"):
        add(Attempt(), conn)


def test_the_tables_may_be_in_another_schema(effects_database: str, total: Callable[[], int]) -> None:
    upgrade(effects_database, schema="Effects_2", status=False)
    with psycopg.connect(effects_database) as conn:
        for done in (False, True):
            with transaction(Attempt(), conn, "main", schema="Effects_2") as tx:
                tx.execute(ADD, {"n": 1})
            assert tx.done is done
        assert not add(Attempt(), conn)
    assert total() == 2


@pytest.mark.parametrize("step", ["", "x" * 251, None])
def test_a_step_needs_a_name(effects_database: str, step: Any) -> None:
    with psycopg.connect(effects_database) as conn, pytest.raises(InvalidSetting, match=r"^step="):
        add(Attempt(), conn, step)


def test_anything_that_is_no_connection_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="must be a psycopg, psycopg2 or SQLAlchemy connection"):
        add(Attempt(), object())


def test_an_asynchronous_connection_is_refused(effects_database: str) -> None:
    async def ask() -> None:
        async with await psycopg.AsyncConnection.connect(effects_database) as conn:
            add(Attempt(), conn)

    with pytest.raises(InvalidSetting, match="is asynchronous"):
        asyncio.run(ask())


def test_a_paused_writer_keeps_its_successor_waiting_and_then_done(
    effects_database: str, connection: psycopg.Connection, total: Callable[[], int]
) -> None:
    told: list[bool] = []

    def succeed() -> None:
        with psycopg.connect(effects_database) as conn:
            told.append(add(Attempt(token=2), conn))

    successor = threading.Thread(target=succeed)
    with psycopg.connect(effects_database) as conn, transaction(Attempt(token=1), conn, "main") as tx:
        tx.execute(ADD, {"n": 1})
        successor.start()
        waiting = "SELECT FROM pg_locks WHERE NOT granted"
        eventually(lambda: connection.execute(waiting).rowcount == 1)
        assert told == []
    successor.join(10)
    assert told == [True]
    assert total() == 1


def test_tokens_that_were_lost_come_back_from_the_fence_as_documented(
    database: str, effects_database: str, connection: psycopg.Connection, total: Callable[[], int]
) -> None:
    """The status database is a new one, or an old one: three jobs, of which it knows nothing, too little and more."""
    (raise_tokens,) = [
        block
        for block in re.findall(r"```sql\n(.*?)```", (PROJECT / "docs" / "operations.md").read_text(), re.DOTALL)
        if "FROM exclusive.scheduled_job_fence" in block
    ]
    unknown, behind, ahead = Attempt(41), Attempt(7, job_name="behind"), Attempt(1, job_name="ahead")
    ledger = Ledger(database)

    def next_attempt(second: float, job_name: str) -> Attempt:
        claim = ledger.claim(second, request(f"tick {second}", job=job_name))
        assert ledger.at(second).finish(claim, "failed", None, 0) == "failed"
        return Attempt(claim.attempt.fencing_token, f"tick {second}", job_name=job_name)

    for written in (unknown, behind, ahead):
        add(written, connection)
    for second in range(3):
        next_attempt(second, ahead.job_name)
    with pytest.raises(StaleWrite, match="a later attempt has written here, token 1 is refused"):
        add(next_attempt(3, behind.job_name), connection)

    told = [line for (line,) in connection.execute(raise_tokens.encode())]
    for _ in range(2):  # harmless once more
        with psycopg.connect(database) as status:
            for line in told:
                status.execute(line.encode())

    following = [next_attempt(4, job.job_name) for job in (unknown, behind, ahead)]
    assert [attempt.token for attempt in following] == [42, 8, 4]
    assert [add(attempt, connection) for attempt in following] == [False, False, False]
    assert total() == 6
    ledger.close()
