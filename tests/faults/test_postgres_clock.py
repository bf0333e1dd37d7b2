"""The clock that judges leases is set, during a run: the stale are refused, and doctor tells what can be told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from airflow_exclusive.core.admission import Admitted, Busy
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.stores.postgres.checks import check
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.schema import upgrade
from airflow_exclusive.stores.redis.checks import clock_ahead
from airflow_exclusive.stores.redis.locks import RedisLocks
from deploy.embedded.account import service_folder
from deploy.embedded.postgres import EmbeddedPostgres
from tests.support.jobs import JobProcess, freeze, thaw
from tests.support.ledger import JOB, NEXT_TICK, TICK
from tests.support.proxied_node import Truth, settings
from tests.support.set_clock import SetClock
from tests.support.waiting import eventually

TTL = 6.0
HOUR = 3600


@pytest.fixture(scope="module")
def clock(server_folder: Path) -> SetClock:
    return SetClock(service_folder(server_folder / "postgres-clock") / "clock")


@pytest.fixture(scope="module")
def server(server_folder: Path, clock: SetClock) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(server_folder / "postgres-with-clock", durable=False, env=clock.environment)
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture
def database(server: EmbeddedPostgres, clock: SetClock) -> Iterator[str]:
    clock.set(0)
    dsn = server.create_database("clocked")
    upgrade(dsn)
    yield dsn
    server.drop_database("clocked")


@pytest.fixture
def truth(redis_url: str, database: str) -> Truth:
    return Truth(redis_url, database)


@pytest.fixture
def guard(redis_url: str, database: str) -> Iterator[JobGuard]:
    """Another node."""
    with JobGuard(redis=redis_url, postgres=database) as made:
        yield made


@pytest.fixture
def start(redis_url: str, database: str) -> Iterator[Callable[..., JobProcess]]:
    started: list[JobProcess] = []

    def begin(**options: Any) -> JobProcess:
        started.append(JobProcess(redis_url, database, ttl=TTL, on_lease_lost="raise", **options))
        return started[-1]

    yield begin
    for job in started:
        job.clean_up()


@pytest.fixture
def doctor(redis_url: str, database: str) -> Callable[[], list[Finding]]:
    """What it says of clocks."""

    def look() -> list[Finding]:
        locks, statuses = RedisLocks(redis_url), Database(database, retry_for=0.0)
        found = [each for each in check(statuses, gate_ahead=lambda: clock_ahead(locks)) if "clock" in each.text]
        locks.close()
        statuses.close()
        return found

    return look


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_clock_of_the_server_can_be_set_here(clock: SetClock, database: str, seconds: int) -> None:
    with psycopg.connect(database) as connection:
        clock.set(seconds)
        told = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
    assert told is not None
    assert abs(float(told[0]) - time.time() - seconds) < 10


@pytest.mark.parametrize("steps", [(HOUR, 0), (-HOUR, 0)], ids=["forward and back", "back and forward"])
def test_a_clock_that_is_set_during_a_run_lets_nobody_else_in(
    clock: SetClock, start: Any, truth: Truth, guard: JobGuard, steps: tuple[int, int]
) -> None:
    runner = start()
    truth.wait_for_renewals(1)
    for seconds in steps:
        clock.set(seconds)
        # Its lease may seem to have lapsed, until its next renewal: the gate keeps everybody out till then.
        assert isinstance(guard.admit(JOB, run_key=TICK, settings=settings()), Busy)
        for _ in range(4):  # past its ttl
            before = truth.heartbeat()
            eventually(lambda before=before: truth.heartbeat() != before, TTL)  # type: ignore[misc]
        assert runner.tell("check") == "held"
    assert runner.tell("write", dsn=truth.postgres) == "written"
    assert runner.tell("finish") == "success"
    assert (truth.outcomes(), truth.effects(), truth.lock()) == (["success"], 1, None)


def test_a_runner_that_a_step_forward_has_taken_over_can_change_nothing(
    clock: SetClock, start: Any, truth: Truth, guard: JobGuard
) -> None:
    """With the gate forgetful as well, or else it would keep the others out."""
    runner = start()
    freeze(runner.pid, runner.keeper)
    clock.set(HOUR)
    guard.locks.release(JOB, runner.owner)
    admission = guard.admit(JOB, run_key=TICK, settings=settings())
    assert isinstance(admission, Admitted)
    assert admission.took_over is not None
    with psycopg.connect(truth.postgres) as conn, admission.lease.transaction(conn) as tx:
        tx.execute("INSERT INTO effect (token) VALUES (%(token)s)", {"token": admission.lease.token})
    clock.set(0)
    thaw(runner.pid, runner.keeper)
    assert str(runner.tell("write", dsn=truth.postgres)).startswith(("StaleWrite", "LeaseLost"))
    assert str(runner.tell("finish")).startswith("StaleWrite")
    admission.lease.ensure_held()
    admission.lease.finish()
    assert (truth.outcomes(), truth.effects()) == (["taken_over", "success"], 1)


# what doctor says


def test_a_clock_that_is_ahead_of_everybody_elses_is_a_warning(
    clock: SetClock, guard: JobGuard, doctor: Callable[[], list[Finding]]
) -> None:
    with guard.hold(JOB, run_key=TICK):
        assert doctor() == []
        clock.set(HOUR)
        (found,) = doctor()
    assert (found.level, found.subject) == ("warning", "Postgres")
    assert found.text.startswith("its clock is +3600.0 s from this node's, and Redis' is within 2 s of it")


def test_a_clock_that_is_behind_everybody_elses_is_a_warning_and_what_was_seen_an_error(
    clock: SetClock, guard: JobGuard, doctor: Callable[[], list[Finding]]
) -> None:
    with guard.hold(JOB, run_key=TICK):
        clock.set(-HOUR)
        found = doctor()
    assert [each.level for each in found] == ["warning", "error"]
    assert found[1].text.endswith("in the future: Postgres' clock has been set back")


def test_a_step_forward_is_seen_when_it_has_been_set_right(
    clock: SetClock, guard: JobGuard, doctor: Callable[[], list[Finding]]
) -> None:
    clock.set(HOUR)
    with guard.hold(JOB, run_key=TICK):
        pass
    clock.set(0)
    with guard.hold(JOB, run_key=NEXT_TICK):
        pass
    (found,) = doctor()
    assert found.level == "warning"
    assert "began 3600 s before the end of the one before it: Postgres' clock was set back in between" in found.text
    assert "token 2" in found.text
