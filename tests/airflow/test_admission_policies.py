"""What an operator asks of the guard when it is executed; the stores have no part in it."""

from __future__ import annotations

import math
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator
from airflow_exclusive.airflow import connections
from airflow_exclusive.core.errors import InvalidSetting
from tests.airflow.context import context_of


class Asked(Exception): ...


class Recorder:
    """A guard that only notes what it is asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.closed = False
        self.statuses = SimpleNamespace(clock=lambda: 5000.0)

    def admit(self, job_name: str, **asked: Any) -> None:
        self.asked = {"job_name": job_name, **asked}
        raise Asked

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    guard = Recorder()
    monkeypatch.setattr(connections, "open_guard", lambda *_: guard)
    return guard


def execute(event: Any = None, **settings: Any) -> None:
    with DAG("any", schedule=None):
        task = ExclusiveBashOperator(task_id="work", bash_command="true", **{"wait_mode": "worker", **settings})
    with pytest.raises(Asked):
        task.execute(context_of(task), event)


@pytest.mark.parametrize(
    ("settings", "wait"),
    [
        ({}, 0),
        ({"on_busy": "fail"}, 0),
        ({"on_busy": "wait"}, math.inf),
        ({"on_busy": "wait", "wait_timeout": 0}, 0),
        ({"on_busy": "wait", "wait_timeout": timedelta(minutes=2)}, 120),
    ],
)
def test_only_who_stands_by_waits_and_no_longer_than_it_was_told(
    guard: Recorder, settings: dict[str, Any], wait: float
) -> None:
    execute(**settings)
    assert guard.asked["wait"] == wait


def test_the_guard_is_asked_for_the_task_instance_by_its_settings(guard: Recorder) -> None:
    execute(lock_ttl=7, run_key="monday")
    assert (guard.asked["job_name"], guard.asked["run_key"]) == ("any.work", "monday")
    assert guard.asked["settings"].seconds == 7
    assert guard.asked["source"].same_task_instance(guard.asked["source"])


def test_the_guard_is_closed_when_asking_fails(guard: Recorder) -> None:
    execute()
    assert guard.closed


@pytest.mark.parametrize(("mode", "leaves"), [("worker", False), ("defer", True)])
def test_who_is_not_to_wait_in_the_worker_says_so_even_if_it_only_may_have_to_wait_for_itself(
    guard: Recorder, mode: str, leaves: bool
) -> None:
    execute(wait_mode=mode)
    assert bool(guard.asked["elsewhere"]) == leaves


def test_who_comes_back_brings_its_ticket_and_counts_from_its_first_ask(guard: Recorder) -> None:
    execute(wait_mode="defer", event={"outcome": "free", "why": "", "began": 4900.0, "ticket": "mine"})
    assert guard.asked["elsewhere"].ticket == "mine"
    assert guard.asked["elsewhere"].waited == 100


@pytest.mark.parametrize("field", ["job_name", "run_key"])
def test_a_template_that_gives_nothing_is_not_the_default(guard: Recorder, field: str) -> None:
    with DAG("any", schedule=None):
        task = ExclusiveBashOperator(task_id="work", bash_command="true", **{field: "{{ params.left_out }}"})
    setattr(task, field, None)
    with pytest.raises(InvalidSetting, match=f"^{field}=None"):
        task.execute(context_of(task))
    assert guard.asked == {}
