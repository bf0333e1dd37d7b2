"""A deferred task that comes back: with its trigger's event, or because Airflow says that its trigger failed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowException, TaskDeferred

from airflow_exclusive import ExclusivePythonOperator
from airflow_exclusive.airflow import waiting
from airflow_exclusive.airflow.compat import AirflowRescheduleException
from airflow_exclusive.core.errors import ExclusiveError, NotAdmitted, StoreUnavailable
from tests.airflow.context import context_of
from tests.support.fakes import Clock, World, busy

FREE = {"outcome": "free", "why": "it was", "ticket": "mine", "began": 990.0}
"""Ten seconds after it first asked: it is 1000 by the clock of these stores."""


@pytest.fixture
def worked() -> list[str]:
    return []


@pytest.fixture
def task(worked: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    with DAG("any", schedule=None):
        return ExclusivePythonOperator(
            task_id="work",
            python_callable=lambda: worked.append("worked"),
            do_xcom_push=False,
            on_busy="wait",
            wait_mode="defer",
            wait_timeout=60,
        )


def test_who_finds_the_job_taken_again_defers_again_with_its_ticket_and_what_is_left_of_its_patience(
    admitting: World, task: Any, worked: list[str]
) -> None:
    admitting.statuses.answers = [busy()]
    with pytest.raises(TaskDeferred) as left:
        task.execute(context_of(task), FREE)
    again = left.value.trigger
    assert (again.ticket, again.began, again.wait) == ("mine", 990.0, 60)
    assert left.value.timeout == timedelta(seconds=50 + 60)
    assert left.value.method_name == "execute"
    assert worked == []
    assert admitting.locks.holder is None


def test_who_comes_back_too_late_is_refused(admitting: World, task: Any, worked: list[str]) -> None:
    admitting.statuses.answers = [busy()]
    with pytest.raises(NotAdmitted):
        task.execute(context_of(task), {**FREE, "outcome": "late", "began": 900.0})
    assert worked == []


class Silent(Clock):
    """A database's that doesn't answer."""

    def __call__(self) -> float:
        raise StoreUnavailable("nobody answers")


@pytest.mark.parametrize(("event", "ticket", "began"), [(FREE, "mine", 990.0), (None, None, None)])
def test_who_asks_while_the_truth_does_not_answer_goes_on_waiting_in_the_triggerer(
    admitting: World, task: Any, worked: list[str], event: Any, ticket: str | None, began: float | None
) -> None:
    admitting.statuses.answers, admitting.statuses.clock = [StoreUnavailable("nobody answers")], Silent()
    with pytest.raises(TaskDeferred) as left:
        task.execute(context_of(task), event)
    trigger = left.value.trigger
    assert (trigger.began, trigger.wait, left.value.timeout) == (began, 60, timedelta(seconds=60 + 60))
    assert trigger.ticket == (ticket or trigger.ticket)
    assert worked == []


def test_who_is_to_come_back_by_itself_does_so_though_the_truth_does_not_answer(
    admitting: World, task: Any, worked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    admitting.statuses.answers = [StoreUnavailable("nobody answers")]
    task.wait_mode = "reschedule"
    monkeypatch.setattr(waiting, "first_rescheduled_at", lambda _: None)
    with pytest.raises(AirflowRescheduleException) as left:
        task.execute(context_of(task))
    away = left.value.reschedule_date - datetime.now(timezone.utc)
    assert timedelta(seconds=25) < away <= timedelta(seconds=30)
    assert worked == []


def test_who_comes_back_and_finds_it_free_trades_its_ticket_and_works(
    admitting: World, task: Any, worked: list[str]
) -> None:
    admitting.locks.holder = "mine"
    task.execute(context_of(task), FREE)
    assert worked == ["worked"]
    assert admitting.locks.holder is None


def test_what_the_trigger_could_not_do_is_told_instead_of_deferring_again(
    admitting: World, task: Any, worked: list[str]
) -> None:
    admitting.statuses.answers = [busy()]
    with pytest.raises(ExclusiveError, match="can't wait in the triggerer: there is no such connection"):
        task.execute(context_of(task), {**FREE, "outcome": "error", "why": "there is no such connection"})
    assert worked == []


@pytest.mark.parametrize("error", ["Trigger timeout", "Trigger failure"])
def test_a_trigger_that_airflow_gave_up_fails_the_task_before_it_asks_for_anything(
    admitting: World, task: Any, worked: list[str], error: str
) -> None:
    with pytest.raises(AirflowException, match=error):
        task.resume_execution(next_method="__fail__", next_kwargs={"error": error}, context=context_of(task))
    assert (admitting.calls.names, worked) == ([], [])
