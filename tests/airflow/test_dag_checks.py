"""What is found in whole DAGs, and that the samples are clean."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseSensorOperator

from airflow_exclusive import ExclusiveBashOperator, JobStatusSensor, exclusive
from airflow_exclusive.airflow.dag_checks import findings_of
from deploy.embedded.stack import PROJECT
from tests.airflow.interpreter import told_by

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")


def dag(dag_id: str = "one", **settings: Any) -> DAG:
    with DAG(dag_id, start_date=START, schedule=None) as made:
        ExclusiveBashOperator(task_id="work", bash_command="true", **settings)
    return made


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"renew": False, "lock_ttl": 30, "execution_timeout": MINUTE}, "its lease ends after 30 s"),
        ({"max_run_time": 90, "execution_timeout": MINUTE}, "max_run_time is 90 s"),
        ({"on_busy": "wait", "execution_timeout": MINUTE}, "may wait for longer than its execution_timeout of 60 s"),
    ],
)
def test_lengths_that_do_not_fit_are_found(settings: dict[str, Any], says: str) -> None:
    (found,) = findings_of([dag(**settings)])
    assert (found.level, found.subject) == ("warning", "one.work")
    assert says in found.text
    assert found.cure


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"execution_timeout": MINUTE},
        {"renew": False, "lock_ttl": 90, "execution_timeout": MINUTE},
        {"renew": False},
        {"max_run_time": 30, "execution_timeout": MINUTE},
        {"on_busy": "wait", "execution_timeout": MINUTE, "wait_mode": "reschedule"},
        {"on_busy": "wait", "execution_timeout": MINUTE, "wait_timeout": 30},
        {"on_busy": "wait"},
    ],
    ids=repr,
)
def test_nothing_is_said_about_those_that_do(settings: dict[str, Any]) -> None:
    assert findings_of([dag(**settings)]) == []


def test_a_job_shared_between_dags_is_found() -> None:
    (found,) = findings_of([dag("one", job_name="same"), dag("two", job_name="same"), dag("three", job_name="other")])
    assert found.subject == "one.work, two.work"
    assert "job_name='same'" in found.text


@pytest.mark.parametrize(
    "settings", [{"job_name": "{{ dag.dag_id }}"}, {"job_name": "same", "run_key": "{{ run_id }}"}]
)
def test_names_that_only_look_the_same_are_not(settings: dict[str, Any]) -> None:
    assert findings_of([dag("one", **settings), dag("two", **settings)]) == []


def test_who_would_stop_a_sequential_scheduler_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sensor(BaseSensorOperator): ...

    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "SequentialExecutor")
    with DAG("one", start_date=START, schedule=None) as made:
        ExclusiveBashOperator(task_id="itself", bash_command="true", on_busy="wait")
        with pytest.warns(UserWarning, match="wait_mode='worker': under the SequentialExecutor"):
            exclusive(Sensor)(task_id="worker", wait_mode="worker")
        JobStatusSensor(task_id="poke", job_name="x", poke_interval=1)
        JobStatusSensor(task_id="reschedule", job_name="x", mode="reschedule")
        JobStatusSensor(task_id="defer", job_name="x", deferrable=True)
    assert [found.subject for found in findings_of([made])] == ["one.worker", "one.poke"]


SAMPLES = """
import json, sys
from airflow_exclusive.airflow.dag_checks import findings_in
print(json.dumps([str(found) for found in findings_in(sys.argv[1])]))
"""


def test_the_samples_are_clean() -> None:
    env = {"PYTHONPATH": str(PROJECT), "AIRFLOW__CORE__EXECUTOR": "LocalExecutor"}
    assert told_by(SAMPLES, str(PROJECT / "dags"), env=env) == []


def test_users_have_it_as_a_fixture(exclusive_findings: Any, tmp_path: Path) -> None:
    assert exclusive_findings(tmp_path) == []
    (tmp_path / "broken.py").write_text("from airflow import DAG\nraise ValueError('broken')\n")
    (found,) = exclusive_findings(tmp_path)
    assert (found.level, "broken" in found.text) == ("error", True)
