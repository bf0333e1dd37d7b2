"""Guarded tasks survive the way through the metadata database."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.triggers.base import StartTriggerArgs

from airflow_exclusive import (
    ExclusiveBashOperator,
    ExclusivePythonOperator,
    JobAdmissionSensor,
    JobStatusSensor,
    exclusive,
    exclusive_task,
)
from tests.airflow.compat import deserialized, is_mapped, serialized

SETTINGS: dict[str, Any] = {"job_name": "{{ params.job }}", "run_key": "{{ ds }}", "lock_ttl": 7, "on_busy": "wait"}
MADE_BY = {
    "bash": "ExclusiveBashOperator",
    "python": "ExclusivePythonOperator",
    "empty": "ExclusiveEmptyOperator",
    "sql": "ExclusiveSQLExecuteQueryOperator",
    "work": "@task.exclusive",
    "work_by_import": "@task.exclusive",
    "mapped_bash": "ExclusiveBashOperator",
    "mapped_empty": "ExclusiveEmptyOperator",
    "mapped_work": "@task.exclusive",
    "admission": "JobAdmissionSensor",
    "status": "JobStatusSensor",
}
MAPPED = {"mapped_bash", "mapped_empty", "mapped_work"}


@pytest.fixture(scope="module")
def dag() -> DAG:
    with DAG("all", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None) as dag:
        ExclusiveBashOperator(task_id="bash", bash_command="true", **SETTINGS)
        ExclusivePythonOperator(task_id="python", python_callable=print, **SETTINGS)
        exclusive(EmptyOperator)(task_id="empty", **SETTINGS)
        exclusive(SQLExecuteQueryOperator)(task_id="sql", conn_id="warehouse", sql="SELECT 1", **SETTINGS)
        ExclusiveBashOperator.partial(task_id="mapped_bash", **SETTINGS).expand(bash_command=["true", "false"])
        exclusive(EmptyOperator).partial(task_id="mapped_empty", on_busy="fail").expand(job_name=["a", "b"])
        JobAdmissionSensor(task_id="admission", job_name="{{ params.job }}", run_key="{{ ds }}")
        JobStatusSensor(task_id="status", job_name="{{ params.job }}", run_key="{{ ds }}", mode="reschedule")

        @task.exclusive(**SETTINGS)
        def work(day: int = 0, lease: Any = None) -> None: ...

        @exclusive_task(**SETTINGS)
        def work_by_import(lease: Any) -> None: ...

        work()
        work_by_import()
        work.override(task_id="mapped_work").expand(day=[1, 2, 3])
    return dag


@pytest.fixture(scope="module")
def restored(dag: DAG) -> Any:
    return deserialized(json.loads(json.dumps(serialized(dag))))


@pytest.mark.parametrize(("task_id", "name"), MADE_BY.items())
def test_a_task_comes_back_as_what_it_was(dag: DAG, restored: Any, task_id: str, name: str) -> None:
    before, after = dag.get_task(task_id), restored.get_task(task_id)
    assert after.operator_name == name
    assert is_mapped(after) == (task_id in MAPPED)
    assert list(after.template_fields) == list(before.template_fields)


def test_nothing_is_left_out(dag: DAG, restored: Any) -> None:
    assert {task.task_id for task in restored.tasks} == set(MADE_BY) == set(dag.task_dict)


@pytest.mark.parametrize("task_id", ["bash", "python", "empty", "sql", "work", "admission", "status"])
def test_the_ui_is_shown_job_and_tick(restored: Any, task_id: str) -> None:
    after = restored.get_task(task_id)
    assert (after.job_name, after.run_key) == ("{{ params.job }}", "{{ ds }}")


def test_serializing_twice_gives_the_same_so_that_no_new_dag_version_appears(dag: DAG) -> None:
    assert serialized(dag) == serialized(dag)


@pytest.mark.parametrize("task_id", ["empty", "mapped_empty"])
def test_an_empty_operator_is_not_marked_as_a_success_without_having_asked(restored: Any, task_id: str) -> None:
    assert restored.get_task(task_id).inherits_from_empty_operator is False


class Starts(BaseOperator):
    start_from_trigger = True
    start_trigger_args = StartTriggerArgs(
        trigger_cls="any.Trigger", next_method="resume", trigger_kwargs={}, next_kwargs=None, timeout=None
    )

    def __init__(self, *, day: int = 0, start_from_trigger: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_from_trigger = start_from_trigger


def test_a_mapped_task_has_nothing_to_begin_by_without_asking() -> None:
    with DAG("starts", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None) as dag:
        mapped = exclusive(Starts).partial(task_id="work", start_from_trigger=False)
        mapped.expand_kwargs([{"start_from_trigger": True}, {"day": 1}])
    (encoded,) = serialized(dag)["dag"]["tasks"]
    assert encoded["__var"].get("start_trigger_args") is None
