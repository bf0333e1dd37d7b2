"""Tasks that end as neither a plain success nor a failure, and what the ledger has of them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, BaseOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.providers.standard.triggers.temporal import DateTimeTrigger

from airflow_exclusive import exclusive
from airflow_exclusive.airflow import connections, listener
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS, ASKS_A_PERSON, SKIPS_WHAT_FOLLOWS
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting
from tests.airflow.context import context_of
from tests.support.fakes import World, done, world

FAR = datetime(2100, 1, 1, tzinfo=timezone.utc)

only_3 = pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="in Airflow 2 the operator does it all and returns")


class Skipping(BaseOperator):
    def execute(self, context: Any) -> None:
        raise AirflowSkipException("nothing to do today")


class Deferring(BaseOperator):
    deferrable = False

    def execute(self, context: Any) -> None:
        self.defer(trigger=DateTimeTrigger(FAR), method_name="execute")


def made(operator: Any, **arguments: Any) -> Any:
    with DAG("any", schedule=None):
        task = exclusive(operator)(task_id="work", do_xcom_push=False, **arguments)
        BaseOperator(task_id="after").set_upstream(task)
    return task


@pytest.fixture(autouse=True)
def confirmed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is to be confirmed: later, when Airflow has shown it, or as a skip."""
    told: list[str] = []
    monkeypatch.setattr(listener, "confirm_later", lambda *_: told.append("later"))
    monkeypatch.setattr(listener, "confirm_skip", lambda: told.append("skip"))
    return told


def test_a_job_that_skips_itself_is_done(admitting: World, confirmed: list[str]) -> None:
    task = made(Skipping)
    with pytest.raises(AirflowSkipException):
        task.execute(context_of(task))
    assert admitting.statuses.finished == [("success", "skipped itself: nothing to do today", 0.0)]
    assert confirmed == ["later", "skip"]


@pytest.mark.parametrize(("error", "skips"), [("skipped itself: nothing to do today", True), (None, False)])
def test_a_retry_of_what_skipped_itself_skips(
    monkeypatch: pytest.MonkeyPatch, confirmed: list[str], error: str | None, skips: bool
) -> None:
    asked = world(replace(done(error=error), by_own_attempt=True))
    asked.guard.close = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr(connections, "open_guard", lambda *_: asked.guard)
    task = made(Skipping)
    if skips:
        with pytest.raises(AirflowSkipException, match="nothing to do today"):
            task.execute(context_of(task))
    else:
        task.execute(context_of(task))
    assert asked.statuses.finished == []
    assert confirmed == (["later", "skip"] if skips else ["later"])


@only_3
def test_a_job_that_skips_what_follows_is_done(admitting: World, confirmed: list[str]) -> None:
    task = made(ShortCircuitOperator, python_callable=lambda: False)
    context = context_of(task)
    context["ti"].xcom_push = lambda **_: None
    with pytest.raises(SKIPS_WHAT_FOLLOWS):
        task.execute(context)
    assert admitting.statuses.finished == [("success", None, 0.0)]
    assert confirmed == ["later"]


@only_3
def test_a_run_that_is_triggered_after_the_task_is_out_of_reach(admitting: World) -> None:
    task = made(TriggerDagRunOperator, trigger_dag_id="other")
    with pytest.raises(ExclusiveError, match="give that run a trigger_run_id made of the tick instead"):
        task.execute(context_of(task))
    assert [outcome for outcome, *_ in admitting.statuses.finished] == ["failed"]


@pytest.mark.parametrize(
    ("operator", "settings", "cure"),
    [
        (DateTimeSensorAsync, {"target_time": FAR}, "let it wait unguarded, and guard the task that follows it"),
        (Deferring, {}, "set deferrable=False"),
    ],
)
def test_a_deferral_is_refused_with_what_can_be_done(
    admitting: World, operator: Any, settings: dict[str, Any], cure: str
) -> None:
    task = made(operator, **settings)
    with pytest.raises(ExclusiveError, match=f"defers, which an exclusive task can't do yet: {cure}"):
        task.execute(context_of(task))
    assert [outcome for outcome, *_ in admitting.statuses.finished] == ["failed"]


@pytest.mark.skipif(not ASKS_A_PERSON, reason="no task of this Airflow parks itself without a trigger")
def test_a_task_that_waits_for_a_person_is_refused(admitting: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the answer would go on without a lease."""
    hitl = importlib.import_module("airflow.providers.standard.operators.hitl")
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **_: None)
    task = made(hitl.ApprovalOperator, subject="ok?")
    context = context_of(task)
    context["ti"].id = "any"
    context["task_instance"] = context["ti"]
    with pytest.raises(ExclusiveError, match="let it ask unguarded, and guard the task that follows it"):
        task.execute(context)
    assert [outcome for outcome, *_ in admitting.statuses.finished] == ["failed"]


def test_a_task_that_would_begin_in_the_triggerer_is_refused() -> None:
    class Beginning(BaseOperator):
        start_from_trigger = True

    with pytest.raises(InvalidSetting, match="start_from_trigger=True: it would begin without asking"):
        made(Beginning)


def test_nor_may_one_of_a_mapped_task() -> None:
    with DAG("any", schedule=None), pytest.raises(InvalidSetting, match="start_from_trigger=True"):
        exclusive(Skipping).partial(task_id="work", start_from_trigger=True)
