"""Triggers survive their way through the metadata database, and carry nothing that is secret."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import redis
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_exclusive.airflow.compat import AirflowRescheduleException
from airflow_exclusive.airflow.triggers import AdmissionTrigger, TickTrigger
from airflow_exclusive.airflow.waiting import Waiter
from airflow_exclusive.core.admission import Busy
from airflow_exclusive.core.errors import ExclusiveError
from airflow_exclusive.stores.redis.scripts import lock_key
from tests.support.ledger import JOB, TASK, TICK

COMMON: dict[str, Any] = {
    "job_name": JOB,
    "run_key": TICK,
    "source": asdict(TASK),
    "postgres_conn_id": "nowhere",
    "schema": "exclusive",
}
ADMISSION: dict[str, Any] = {
    **COMMON,
    "ticket": "mine",
    "began": 1.5,
    "wait": None,
    "ttl": 30.0,
    "on_redis_down": "fail",
    "redis_conn_id": "nowhere",
}


@pytest.mark.parametrize(
    "trigger", [AdmissionTrigger(**ADMISSION), TickTrigger(**COMMON, free=True, poke_interval=3.0)], ids=repr
)
def test_a_trigger_comes_back_as_what_it_was(trigger: Any) -> None:
    path, arguments = trigger.serialize()
    again = type(trigger)(**json.loads(json.dumps(arguments)))
    assert path == f"airflow_exclusive.airflow.triggers.{type(trigger).__name__}"
    assert again.serialize() == trigger.serialize()


def test_what_the_triggerer_lacks_is_told_to_the_task_instead_of_failing_without_a_word() -> None:
    async def events() -> list[Any]:
        return [event.payload async for event in AdmissionTrigger(**ADMISSION).run()]

    (told,) = asyncio.run(events())
    assert told["outcome"] == "error"
    assert "redis_conn_id='nowhere': there is no such connection" in told["why"]
    assert (told["ticket"], told["began"]) == ("mine", 1.5)


@pytest.fixture
def stores(redis_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The arguments that lead there."""
    server, _, number = redis_url.rpartition("/")
    monkeypatch.setenv("AIRFLOW_CONN_GATE", f"{server}/?db={number}")
    monkeypatch.setenv("AIRFLOW_CONN_TRUTH", database)
    return {"redis_conn_id": "gate", "postgres_conn_id": "truth"}


def test_a_task_that_left_while_the_truth_did_not_answer_counts_its_patience_from_then_on(
    stores: dict[str, str], database: str
) -> None:
    trigger = AdmissionTrigger(**{**ADMISSION, **stores, "began": None})

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    with psycopg.connect(database) as connection:
        ((before,),) = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchall()
        (told,) = asyncio.run(events())
        ((after,),) = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchall()
    assert told["outcome"] == "free"
    assert before <= told["began"] <= after


def test_a_trigger_that_airflow_ends_gives_nothing_back(stores: dict[str, str], redis_client: redis.Redis) -> None:
    """It may have ended it to move it, or have told its task already."""
    trigger = AdmissionTrigger(**{**ADMISSION, **stores})

    async def ended() -> None:
        async for event in trigger.run():
            assert event.payload["outcome"] == "free"
        for end in ("cleanup", "on_kill"):
            if hasattr(trigger, end):  # Airflow 2 has no such on_kill
                await getattr(trigger, end)()

    asyncio.run(ended())
    assert redis_client.get(lock_key(JOB)) == "mine"


BUSY = Busy(JOB, TICK, None, 7.0, wait_left=100.0)
ASKED = {name: value for name, value in ADMISSION.items() if name not in ("ticket", "began")}


def test_a_task_that_defers_leaves_its_ticket_and_its_first_ask_with_the_trigger() -> None:
    with pytest.raises(TaskDeferred) as left:
        Waiter("defer", "mine", lambda: 9.0, 1.5).leave(BUSY, interval=30, asked=ASKED)
    assert (left.value.trigger.ticket, left.value.trigger.began, left.value.method_name) == ("mine", 1.5, "execute")
    assert left.value.timeout is not None
    assert left.value.timeout.total_seconds() == 160


def test_a_task_does_not_defer_for_ever_to_a_triggerer_that_cannot() -> None:
    with pytest.raises(ExclusiveError, match="can't wait in the triggerer: no such connection"):
        Waiter("defer", "mine", lambda: 9.0, 1.5, trouble="no such connection").leave(BUSY, interval=30, asked=ASKED)


@pytest.mark.parametrize(
    ("lapses_in", "away"), [(7.0, 10), (20.0, 20), (300.0, 30)], ids=["Airflow has to know first", "lapse", "interval"]
)
def test_a_task_that_is_rescheduled_asks_again_when_the_lease_lapses(
    monkeypatch: pytest.MonkeyPatch, lapses_in: float, away: int
) -> None:
    """As soon as Airflow knows that it has left, and at least every `wait_interval`."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    before = datetime.now(timezone.utc)
    with pytest.raises(AirflowRescheduleException) as left:
        Waiter("reschedule", "mine", time.time).leave(replace(BUSY, retry_after=lapses_in), interval=30, asked=ASKED)
    after = datetime.now(timezone.utc)
    assert before <= left.value.reschedule_date - timedelta(seconds=away) <= after
