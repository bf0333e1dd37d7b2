"""DAG files are parsed every few seconds: what they import of us must be light."""

from __future__ import annotations

import pytest

from tests.airflow.interpreter import told_by

PARSED = """
import json, sys
from datetime import datetime, timedelta, timezone
from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseSensorOperator, task
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
when = {"schedule": "@daily", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc)}
with DAG("unguarded", **when):
    BashOperator(task_id="bash", bash_command="true")
    PythonOperator(task_id="python", python_callable=print)
    @task
    def decorated(): ...
    decorated()
before = set(sys.modules)
import airflow_exclusive
names = [name for name in airflow_exclusive.__all__ if name not in ("JobGuard", "inherited_lease")]
for name in names:
    getattr(airflow_exclusive, name)
with DAG("parsed", **when) as dag:
    policies = {"on_busy": "wait", "wait_mode": "defer", "lock_ttl": timedelta(seconds=15)}
    airflow_exclusive.ExclusiveBashOperator(task_id="bash", bash_command="true", **policies)
    airflow_exclusive.ExclusivePythonOperator(task_id="python", python_callable=print, renew=False)
    airflow_exclusive.exclusive(BashOperator)(task_id="any", bash_command="true", max_run_time=60)
    airflow_exclusive.ExclusiveBashOperator.partial(task_id="mapped").expand(bash_command=["a", "b"])
    airflow_exclusive.JobAdmissionSensor(task_id="admission", job_name="parsed.bash", deferrable=True)
    airflow_exclusive.JobStatusSensor(task_id="status", job_name="parsed.bash")
    @airflow_exclusive.exclusive_task
    def decorated(): ...
    @airflow_exclusive.exclusive_task(on_busy="wait", wait_mode="reschedule")
    def with_settings(): ...
    @task.exclusive
    def registered(): ...
    decorated() >> with_settings() >> registered()
told = {"names": names, "tasks": sorted(dag.task_ids), "new": sorted(set(sys.modules) - before)}
print(json.dumps(told))
"""
HEAVY = {"redis", "psycopg", "psycopg2", "psycopg_pool", "sqlalchemy", "fastapi", "flask", "psutil", "click", "rich"}
HEAVY |= {"croniter", "multiprocessing", "pandas", "numpy"}


@pytest.fixture(scope="module")
def parsed() -> dict[str, list[str]]:
    told: dict[str, list[str]] = told_by(PARSED)
    return told


def test_a_dag_that_is_parsed_loads_no_driver_and_no_server(parsed: dict[str, list[str]]) -> None:
    assert {"ExclusiveBashOperator", "exclusive_task", "JobStatusSensor", "exclusive"} <= set(parsed["names"])
    assert {"admission", "any", "bash", "decorated", "mapped", "python", "registered", "status"} <= set(parsed["tasks"])
    assert {name.partition(".")[0] for name in parsed["new"]} & HEAVY == set()


def test_nor_does_it_load_our_stores_and_keeper(parsed: dict[str, list[str]]) -> None:
    ours = {name for name in parsed["new"] if name.startswith("airflow_exclusive.")}
    assert "airflow_exclusive.airflow.operators" in ours
    allowed = {"airflow_exclusive.stores.postgres.statements", "airflow_exclusive.stores.postgres"}
    assert {name for name in ours - allowed if name.startswith("airflow_exclusive.stores.")} == set()
    assert {name for name in ours if name.startswith(("airflow_exclusive.keeper", "airflow_exclusive.cli"))} == set()


def test_the_library_needs_no_airflow() -> None:
    script = """
import json, sys
from airflow_exclusive import JobGuard, LeaseLost, current_lease, inherited_lease
JobGuard(redis="redis://h", postgres="postgresql://h").close()
print(json.dumps([name for name in sys.modules if name.partition(".")[0] == "airflow"]))
"""
    assert told_by(script) == []


def test_a_name_that_does_not_exist_is_said_to_be_missing() -> None:
    import airflow_exclusive

    with pytest.raises(AttributeError, match="no attribute 'ExclusiveBashOperater'"):
        airflow_exclusive.ExclusiveBashOperater  # noqa: B018
