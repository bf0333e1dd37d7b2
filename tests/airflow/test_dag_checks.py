"""What is found in whole DAGs, and that the samples are clean."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseSensorOperator
from airflow.providers.standard.operators.bash import BashOperator

from airflow_exclusive import (
    ExclusiveBashOperator,
    JobAdmissionSensor,
    JobStatusSensor,
    Lease,
    exclusive,
    exclusive_task,
)
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
        (
            {"renew": False, "lock_ttl": 30, "execution_timeout": MINUTE},
            "its lease of 30 s (renew=False) leaves it 21 s",
        ),
        (
            {"renew": False, "lock_ttl": 60, "execution_timeout": MINUTE},
            "its lease of 60 s (renew=False) leaves it 48 s",
        ),
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
            ExclusiveBashOperator(task_id="worker", bash_command="true", wait_mode="worker")
        exclusive(Sensor)(task_id="guarded_sensor")
        JobStatusSensor(task_id="poke", job_name="x", poke_interval=1)
        JobStatusSensor(task_id="reschedule", job_name="x", mode="reschedule")
        JobStatusSensor(task_id="defer", job_name="x", deferrable=True)
    stopping = ["one.worker", "one.guarded_sensor", "one.poke"]
    assert [found.subject for found in findings_of([made], triggerer=True)] == stopping
    assert [found.subject for found in findings_of([made])] == [*stopping, "one.defer"]


# another deployment than the one of this process


SEQUENTIAL = ["SequentialExecutor", "airflow.executors.sequential_executor.SequentialExecutor"]


def shared() -> DAG:
    """As a deployment without the SequentialExecutor parses it."""
    with DAG("one", start_date=START, schedule=None) as made:
        ExclusiveBashOperator(task_id="itself", bash_command="true", on_busy="wait")
        ExclusiveBashOperator(task_id="reschedule", bash_command="true", wait_mode="reschedule")
        ExclusiveBashOperator(task_id="worker", bash_command="true", wait_mode="worker")
        ExclusiveBashOperator(task_id="defer", bash_command="true", wait_mode="defer")
        JobStatusSensor(task_id="poke", job_name="x")
        JobStatusSensor(task_id="rescheduled", job_name="x", mode="reschedule")
        JobAdmissionSensor(task_id="deferrable", job_name="x", deferrable=True)
    return made


def test_the_configured_executor_is_the_one_that_counts() -> None:
    assert findings_of([shared()]) == []


@pytest.mark.parametrize("executor", SEQUENTIAL)
def test_what_will_not_do_in_another_deployment_is_found(executor: str) -> None:
    found = findings_of([shared()], executor=executor)
    assert [(one.level, one.subject) for one in found] == [
        ("warning", "one.worker"),
        ("warning", "one.defer"),
        ("warning", "one.poke"),
        ("warning", "one.deferrable"),
    ]
    assert ["triggerer" in one.text for one in found] == [False, True, False, True]


def test_with_a_triggerer_a_sequential_deployment_can_defer() -> None:
    found = findings_of([shared()], executor="SequentialExecutor", triggerer=True)
    assert [one.subject for one in found] == ["one.worker", "one.poke"]


def test_another_deployment_may_be_the_one_that_is_not_sequential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "SequentialExecutor")
    made = dag(on_busy="wait", execution_timeout=MINUTE)
    assert findings_of([made]) == []  # it is rescheduled
    (found,) = findings_of([made], executor="LocalExecutor")
    assert "may wait for longer than its execution_timeout" in found.text


def test_airflow_2_counts_the_time_of_a_deferral() -> None:
    made = dag(on_busy="wait", wait_mode="defer", execution_timeout=MINUTE)
    (found,) = findings_of([made], executor="SequentialExecutor", triggerer=True)
    assert "may wait for longer than its execution_timeout" in found.text


# mapped tasks

NO_FIT = {"renew": False, "lock_ttl": 30, "execution_timeout": MINUTE}


def command(**settings: Any) -> Any:
    return ExclusiveBashOperator.partial(task_id="work", **settings)


def plain(n: int) -> int:
    return n


def held(n: int, lease: Lease) -> int:
    return n * lease.token


def upstream() -> Any:
    return ExclusiveBashOperator(task_id="upstream", bash_command="true").output


MAPPED = {
    "what all have": lambda: command(**NO_FIT).expand(bash_command=["a", "b"]),
    "what one has": lambda: command(execution_timeout=MINUTE, renew=False, bash_command="a").expand(lock_ttl=[90, 30]),
    "what a few have together": lambda: command(execution_timeout=MINUTE, bash_command="a").expand(
        lock_ttl=[90, 30], renew=[True, False]
    ),
    "a set for each": lambda: command(execution_timeout=MINUTE, renew=False).expand_kwargs(
        [{"bash_command": "a"}, {"bash_command": "b", "lock_ttl": 30}]
    ),
    "over an upstream task's result": lambda: command(**NO_FIT).expand(bash_command=upstream()),
    "over a dictionary": lambda: command(**NO_FIT).expand(bash_command={"a": 1, "b": 2}),
    "a function": lambda: exclusive_task(task_id="work", **NO_FIT)(held).expand(n=[1, 2]),
    "a function over sets": lambda: exclusive_task(task_id="work", **NO_FIT)(plain).expand_kwargs([{"n": 1}]),
    "a function over an upstream task's result": lambda: exclusive_task(task_id="work", **NO_FIT)(plain).expand(
        n=upstream()
    ),
}


@pytest.mark.parametrize("make", MAPPED.values(), ids=MAPPED)
def test_mapped_tasks_are_looked_at_as_what_they_will_be(make: Callable[[], Any]) -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        make()
    before = [(task, task.upstream_task_ids) for task in made.tasks]
    (found,) = findings_of([made])
    assert (found.level, found.subject) == ("warning", "one.work")
    assert "its lease of 30 s" in found.text
    assert [(task, task.upstream_task_ids) for task in made.tasks] == before


SILENT = {
    "nothing wrong": lambda: command().expand(bash_command=["a", "b"]),
    "a length that another task will give": lambda: command(bash_command="a", renew=False).expand(lock_ttl=upstream()),
    "all that another task will give": lambda: command(**NO_FIT).expand_kwargs(upstream()),
    "not ours": lambda: BashOperator.partial(task_id="work").expand(bash_command=["a", "b"]),
}


@pytest.mark.parametrize("make", SILENT.values(), ids=SILENT)
def test_nothing_is_said_about_mapped_tasks_that_are_right_or_not_known(make: Callable[[], Any]) -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        make()
    assert findings_of([made]) == []


def test_a_mapped_task_that_will_be_refused_is_found() -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        command(bash_command="a").expand(lock_ttl=[30, -1])
    (found,) = findings_of([made])
    assert (found.level, found.subject) == ("error", "one.work")
    assert found.text.startswith("lock_ttl=-1: ")


def test_mapped_tasks_are_looked_at_for_another_deployment() -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        command(wait_mode="defer").expand(bash_command=["a", "b"])
        exclusive_task(task_id="function", wait_mode="worker")(plain).expand(n=[1, 2])
        JobStatusSensor.partial(task_id="sensor").expand(job_name=["a", "b"])
        ExclusiveBashOperator.partial(task_id="itself").expand(bash_command=["a", "b"])
    assert findings_of([made]) == []
    found = findings_of([made], executor="SequentialExecutor")
    assert [one.subject for one in found] == ["one.work", "one.function", "one.sensor"]


def test_a_job_shared_with_a_mapped_task_is_found() -> None:
    with DAG("two", start_date=START, schedule=None) as mapped:
        command(bash_command="a").expand(job_name=["same", "other"])
    (found,) = findings_of([dag("one", job_name="same"), mapped])
    assert found.subject == "one.work, two.work"


# whole folders


SAMPLES = """
import json, sys
from airflow_exclusive.airflow.dag_checks import findings_in
found = findings_in(sys.argv[1], executor=sys.argv[2], triggerer=sys.argv[3] == "triggerer")
print(json.dumps([[one.subject, one.text] for one in found]))
"""
NEED_A_TRIGGERER = {"example_admission_sensor.nobody_runs_it", "example_wait_mode_defer.work"}
"""They say so."""


@pytest.mark.parametrize(
    ("executor", "triggerer", "but"),
    [
        ("LocalExecutor", "", set()),
        ("SequentialExecutor", "triggerer", set()),
        ("SequentialExecutor", "", NEED_A_TRIGGERER),
    ],
)
@pytest.mark.parametrize("configured", ["LocalExecutor", "SequentialExecutor"])
def test_the_samples_are_clean(configured: str, executor: str, triggerer: str, but: set[str]) -> None:
    env = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'plugins'}", "AIRFLOW__CORE__EXECUTOR": configured}
    found = told_by(SAMPLES, str(PROJECT / "dags"), executor, triggerer, env=env)
    assert {subject for subject, _ in found} == but
    assert all("triggerer" in text for _, text in found)


def test_users_have_it_as_a_fixture(exclusive_findings: Any, tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(
        "from airflow.providers.common.compat.sdk import DAG\none = DAG('one', schedule=None)\n"
    )
    assert exclusive_findings(tmp_path) == []
    (tmp_path / "broken.py").write_text("from airflow import DAG\nraise ValueError('broken')\n")
    (found,) = exclusive_findings(tmp_path)
    assert (found.level, "broken" in found.text) == ("error", True)


def test_their_fixture_looks_at_another_deployment(exclusive_findings: Any, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(
        "from airflow_exclusive import JobStatusSensor\n"
        "from airflow.providers.common.compat.sdk import DAG\n"
        "with DAG('one', schedule=None):\n"
        "    JobStatusSensor(task_id='waits', job_name='x', deferrable=True)\n"
    )
    assert exclusive_findings(tmp_path) == []
    assert [found.subject for found in exclusive_findings(tmp_path, executor="SequentialExecutor")] == ["one.waits"]
    assert exclusive_findings(tmp_path, executor="SequentialExecutor", triggerer=True) == []


def test_a_folder_without_dags_is_no_clean_one(
    exclusive_findings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (missing,) = exclusive_findings("dags")
    assert (missing.level, missing.subject) == ("error", str(tmp_path / "dags"))
    assert missing.text == "there is no such folder"
    (tmp_path / "dags").mkdir()
    (empty,) = exclusive_findings("dags")
    assert (empty.level, empty.subject, empty.text) == ("error", str(tmp_path / "dags"), "there is no DAG in it")


def test_dags_import_what_lies_beside_them(
    exclusive_findings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lies_beside_it.py").write_text("DAG_ID = 'one'\n")
    (tmp_path / "imports_it.py").write_text(
        "from airflow.providers.common.compat.sdk import DAG\n"
        "from lies_beside_it import DAG_ID\n"
        "one = DAG(DAG_ID, schedule=None)\n"
    )
    before = list(sys.path)
    assert exclusive_findings(tmp_path) == []
    monkeypatch.chdir(tmp_path)
    assert exclusive_findings("imports_it.py") == []
    assert sys.path == before
    del sys.modules["lies_beside_it"]
