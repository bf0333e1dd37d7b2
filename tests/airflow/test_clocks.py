"""A wait that goes from worker to triggerer and back, whose wall clocks are hours apart: nothing goes by them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from airflow_exclusive import ExclusivePythonOperator, JobAdmissionSensor
from airflow_exclusive.airflow import config, connections
from airflow_exclusive.core import standby as rules
from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.errors import NotAdmitted
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.guard import JobGuard
from tests.airflow.context import context_of
from tests.support.ledger import JOB, NEXT_TICK, TICK, count_looks

HOUR = 3600.0


class WallClock:
    """What `time.time` tells; `ahead` of the true time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, true = 0.0, time.time
        monkeypatch.setattr(time, "time", lambda: true() + self.ahead)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


@pytest.fixture
def guard(redis_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobGuard]:
    """Somebody else's; the task has stores of its own to the same servers."""

    async def redis(_: str) -> str:
        return redis_url

    async def postgres(_: str) -> str:
        return database

    monkeypatch.setattr(connections, "open_guard", lambda *_: JobGuard(redis=redis_url, postgres=database))
    monkeypatch.setattr(connections, "async_redis_url", redis)
    monkeypatch.setattr(connections, "async_postgres_dsn", postgres)
    monkeypatch.setattr(config, "shortest_absence", lambda: 0.0)
    monkeypatch.setattr(rules, "POLL_AT_MOST", 0.2)
    with JobGuard(redis=redis_url, postgres=database) as made:
        yield made


@pytest.fixture
def held(guard: JobGuard) -> Iterator[Lease]:
    """Of the job, until the test gives it back; its keeper would end the test's process with a lease that is lost."""
    answer = guard.admit(JOB, run_key=NEXT_TICK)
    assert isinstance(answer, Admitted)
    yield answer.lease
    if not answer.lease.finished:
        answer.lease.finish()


def waiter(wait_timeout: float) -> Any:
    with DAG("any", schedule=None):
        return ExclusivePythonOperator(
            task_id="work",
            python_callable=lambda: "worked",
            do_xcom_push=False,
            job_name=JOB,
            run_key=TICK,
            on_busy="wait",
            wait_mode="defer",
            wait_timeout=wait_timeout,
        )


def deferred(execute: Callable[[], Any]) -> Any:
    """The trigger with which a task leaves, as it comes out of the metadata database."""
    with pytest.raises(TaskDeferred) as left:
        execute()
    trigger = left.value.trigger
    return type(trigger)(**json.loads(json.dumps(trigger.serialize()[1])))


async def event_of(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("it ended without a word")


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["triggerer ahead", "triggerer behind"])
def test_a_deferred_waiters_patience_lasts_as_long_as_on_one_clock(
    held: Lease, wall_clock: WallClock, ahead: float
) -> None:
    task = waiter(wait_timeout=6)
    began = time.monotonic()
    wall_clock.ahead = -ahead
    trigger = deferred(lambda: task.execute(context_of(task)))
    wall_clock.ahead = ahead
    event = asyncio.run(asyncio.wait_for(event_of(trigger), 30))
    assert event["outcome"] == "late"
    assert time.monotonic() - began >= 5.9
    wall_clock.ahead = -ahead
    with pytest.raises(NotAdmitted):
        task.execute(context_of(task), event)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["triggerer ahead", "triggerer behind"])
def test_a_deferred_waiter_neither_gives_up_nor_sleeps_because_of_a_clock(
    held: Lease, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(config, "shortest_absence", lambda: 0.5)
    looked = count_looks(monkeypatch)
    task = waiter(wait_timeout=60)
    wall_clock.ahead = -ahead
    trigger = deferred(lambda: task.execute(context_of(task)))
    wall_clock.ahead = ahead

    async def freed() -> dict[str, Any]:
        waiting = asyncio.create_task(event_of(trigger))
        while len(looked) < 3:
            await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(held.finish)
        return await waiting

    event = asyncio.run(asyncio.wait_for(freed(), 30))
    assert event["outcome"] == "free"
    wall_clock.ahead = -ahead
    assert task.execute(context_of(task), event) == "worked"


def test_a_task_that_comes_back_on_another_clock_defers_again_with_its_ticket_and_its_patience(
    held: Lease, wall_clock: WallClock
) -> None:
    task = waiter(wait_timeout=60)
    first = deferred(lambda: task.execute(context_of(task)))
    event = {"outcome": "free", "why": "it was, a moment ago", "ticket": first.ticket, "began": first.began}
    wall_clock.ahead = HOUR
    again = deferred(lambda: task.execute(context_of(task), event))
    assert again.serialize() == first.serialize()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["triggerer ahead", "triggerer behind"])
def test_a_deferred_sensor_stays_away_as_long_as_it_has_to(
    held: Lease, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(config, "shortest_absence", lambda: 1.0)
    looked = count_looks(monkeypatch)
    with DAG("any", schedule=None):
        sensor: Any = JobAdmissionSensor(
            task_id="sense", job_name=JOB, run_key=TICK, deferrable=True, poke_interval=0.1
        )
    trigger = deferred(lambda: sensor.execute(context_of(sensor)))
    wall_clock.ahead = ahead
    held.finish()
    began = time.monotonic()
    assert asyncio.run(asyncio.wait_for(event_of(trigger), 30))["outcome"] == "free"
    assert looked[0] - began >= 0.9
