"""What is found in whole DAGs, and that the samples are clean."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseSensorOperator, task_group
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import BranchPythonOperator, ShortCircuitOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor

from airflow_exclusive import (
    ExclusiveBashOperator,
    JobAdmissionSensor,
    JobStatusSensor,
    Lease,
    exclusive,
    exclusive_task,
)
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
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


# the same job in several tasks


def echo(task_id: str, **settings: Any) -> Any:
    return ExclusiveBashOperator(task_id=task_id, bash_command="true", **settings)


def branch(task_id: str) -> Any:
    return BranchPythonOperator(task_id=task_id, python_callable=str)


def one_after_the_other(**settings: Any) -> None:
    echo("a", job_name="same", **settings) >> echo("b", job_name="same", **settings)


def both_of_a_branch() -> None:
    joined = echo("b", job_name="same", trigger_rule="none_failed_min_one_success")
    branch("which") >> [echo("a", job_name="same"), EmptyOperator(task_id="x")] >> joined


def both_behind_a_condition() -> None:
    ShortCircuitOperator(task_id="if", python_callable=bool) >> [echo("a", job_name="same"), echo("b", job_name="same")]


SHARING: dict[str, Callable[[], Any]] = {
    "one after the other": one_after_the_other,
    "the same tick by name": lambda: one_after_the_other(run_key="2026"),
    "the same tick by template": lambda: one_after_the_other(run_key="{{ run_id }} {{ ds }}"),
    "the same name by template": lambda: [echo(task, job_name="{{ dag.dag_id }}") for task in "ab"],
    "on both ways of a branch": both_of_a_branch,
    "behind one condition": both_behind_a_condition,
}


@pytest.mark.parametrize("make", SHARING.values(), ids=SHARING)
def test_a_job_shared_within_a_dag_is_found(make: Callable[[], Any]) -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        make()
    (found,) = findings_of([made])
    assert (found.level, found.subject) == ("warning", "one.a, one.b")
    assert "of the same tick one runs, and the others find it done" in found.text


def test_a_job_that_all_have_by_default_args_is_found() -> None:
    with DAG("one", start_date=START, schedule=None, default_args={"job_name": "same"}) as made:
        echo("a") >> echo("b")
    (found,) = findings_of([made])
    assert found.subject == "one.a, one.b"


def ways_of_a_branch() -> None:
    which = branch("which")
    which >> echo("a", job_name="same")
    which >> EmptyOperator(task_id="before") >> echo("b", job_name="same")


def a_condition_of_its_own(task_id: str) -> None:
    ShortCircuitOperator(task_id=f"if_{task_id}", python_callable=bool) >> echo(task_id, job_name="same")


def when_one_has_failed(rule: str) -> None:
    failed = EmptyOperator(task_id="failed", trigger_rule=rule)
    echo("a", job_name="same") >> failed >> echo("b", job_name="same")


TAKING_TURNS: dict[str, Callable[[], Any]] = {
    "ways of a branch": ways_of_a_branch,
    "conditions of their own": lambda: [a_condition_of_its_own(task) for task in "ab"],
    "hooks that may skip": lambda: [echo(task, job_name="same", pre_execute=print) for task in "ab"],
    "one when the other has failed": lambda: when_one_has_failed("one_failed"),
    "one when the other has ended": lambda: when_one_has_failed("all_done"),
    "other ticks": lambda: [echo(task, job_name="same", run_key=task) for task in "ab"],
    "ticks of the tasks": lambda: one_after_the_other(run_key="{{ ts }} {{ task.task_id }}"),
    "ticks that others give": lambda: [echo("a", job_name="a"), one_given_tick("b"), one_given_tick("c")],
}


def one_given_tick(task_id: str) -> Any:
    return echo(task_id, job_name="same", run_key=EmptyOperator(task_id=f"gives_{task_id}").output)


@pytest.mark.parametrize("make", TAKING_TURNS.values(), ids=TAKING_TURNS)
def test_nothing_is_said_about_tasks_of_which_one_runs(make: Callable[[], Any]) -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        make()
    assert findings_of([made]) == []


def test_a_jobs_default_name_is_one_as_well() -> None:
    with DAG("mapped", start_date=START, schedule=None) as mapped:
        command().expand(bash_command=["a", "b"])
    of_mapped, plain = findings_of(
        [dag("one"), dag("two", job_name="one.work"), mapped, dag("three", job_name="mapped.work[1]")]
    )
    assert plain.subject == "one.work, two.work"
    assert of_mapped.subject == "mapped.work, three.work"


@pytest.mark.parametrize("run_key", ["2026", "{{ ds }}", "{{ data_interval_end | ts }}"])
def test_the_same_tick_of_a_job_in_two_dags_is_found(run_key: str) -> None:
    (found,) = findings_of([dag(name, job_name="same", run_key=run_key) for name in ("one", "two")])
    assert found.subject == "one.work, two.work"
    assert f"job_name='same' and run_key={run_key!r}" in found.text


def in_a_mapped_group() -> None:
    @task_group
    def group(n: int) -> None:
        echo("work", job_name="same")

    group.expand(n=[1, 2])


SHARED_BY_INSTANCES: dict[str, Callable[[], Any]] = {
    "an operator's": lambda: command(job_name="same").expand(bash_command=["a", "b"]),
    "sets for an operator's": lambda: command(job_name="same").expand_kwargs([{"bash_command": "a"}] * 2),
    "a function's": lambda: exclusive_task(task_id="work", job_name="same")(plain).expand(n=[1, 2]),
    "a function's with a tick": lambda: exclusive_task(task_id="work", job_name="same", run_key="{{ ds }}")(
        plain
    ).expand(n=[1, 2]),
    "a mapped group's": in_a_mapped_group,
}


@pytest.mark.parametrize("make", SHARED_BY_INSTANCES.values(), ids=SHARED_BY_INSTANCES)
def test_a_job_that_mapped_instances_share_is_found(make: Callable[[], Any]) -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        make()
    (found,) = findings_of([made])
    assert (found.level, found.subject.rpartition(".")[2]) == ("error", "work")
    assert found.text.startswith("its mapped instances share job_name='same'")


INSTANCES_APART: dict[str, Callable[[], Any]] = {
    "names": lambda: command(job_name="{{ ti.map_index }}").expand(bash_command=["a", "b"]),
    "ticks": lambda: command(job_name="same", run_key="{{ task.bash_command }}").expand(bash_command=["a", "b"]),
    "only one": lambda: command(job_name="same").expand(bash_command=["a"]),
    "nobody knows how many": lambda: command(job_name="same").expand(bash_command=upstream()),
    "a function's": lambda: exclusive_task(task_id="work", job_name="{{ task.op_kwargs.n }}")(plain).expand(n=[1, 2]),
    "default": lambda: exclusive_task(task_id="work")(plain).expand(n=[1, 2]),
}


@pytest.mark.parametrize("make", INSTANCES_APART.values(), ids=INSTANCES_APART)
def test_nothing_is_said_about_instances_with_jobs_of_their_own(make: Callable[[], Any]) -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        make()
    assert findings_of([made]) == []


@pytest.mark.parametrize("values", [[1, 2], None])
def test_a_misspelt_setting_of_a_mapped_function_is_found(values: list[int] | None) -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        exclusive_task(task_id="work", on_buzy="wait", lock_tll=5)(plain).expand(n=values or upstream())
    (found,) = findings_of([made])
    assert (found.level, found.subject) == ("error", "one.work")
    assert "on_buzy" in found.text
    assert "lock_tll" in found.text


# operators that can't be guarded


def test_an_operator_that_always_defers_is_found() -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        exclusive(DateTimeSensorAsync)(task_id="work", target_time=START)
        exclusive(TimeDeltaSensor)(task_id="may_wait_here", delta=MINUTE, deferrable=False)
    (found,) = findings_of([made])
    assert (found.level, found.subject) == ("error", "one.work")
    assert "it leaves its worker to wait" in found.text
    assert found.cure == "let it wait unguarded, and guard the task that follows it"


def test_an_operator_whose_run_is_triggered_after_its_end_is_found() -> None:
    with DAG("one", start_date=START, schedule=None) as made:
        exclusive(TriggerDagRunOperator)(task_id="work", trigger_dag_id="other")
    found = findings_of([made])
    assert [(one.level, one.subject) for one in found] == ([("error", "one.work")] if AIRFLOW_V_3_0_PLUS else [])
    assert all("trigger_run_id" in one.cure for one in found)


# whole folders


SAMPLES = """
import json, sys
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
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
