"""What can be said about guarded tasks once whole DAGs are there: settings that don't fit each other.

What a task's own settings tell is refused where it is made. Settings of mapped tasks aren't looked into.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from airflow_exclusive.airflow import config
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
from airflow_exclusive.airflow.early_checks import is_known
from airflow_exclusive.airflow.mixin import ExclusiveMixin
from airflow_exclusive.airflow.sensors import JobAdmissionSensor, JobStatusSensor
from airflow_exclusive.core.findings import Finding


def findings_in(folder: str | Path) -> list[Finding]:
    """What is wrong with the DAGs of a folder, files that can't be imported included."""
    bag = _dag_bag(str(folder))
    broken = [Finding("error", str(file), str(error).strip()) for file, error in bag.import_errors.items()]
    return [*broken, *findings_of(bag.dags.values())]


def findings_of(dags: Iterable[Any]) -> list[Finding]:
    """What is wrong with these DAGs, for this deployment's executor."""
    tasks = [task for dag in dags for task in dag.tasks]
    guarded = [task for task in tasks if isinstance(task, ExclusiveMixin)]
    sensors = [task for task in tasks if isinstance(task, (JobAdmissionSensor, JobStatusSensor))]
    found = [finding for task in guarded for finding in (*_of_lengths(task), *_of_waiting(task))]
    return [*found, *_of_names(guarded), *(finding for sensor in sensors for finding in _of_poking(sensor))]


def _of_lengths(task: Any) -> Iterator[Finding]:
    settings = task.lease_settings
    if task.execution_timeout is None:
        return
    longest = task.execution_timeout.total_seconds()
    if not settings.renew and settings.seconds < longest:
        yield _warning(
            task,
            f"its lease ends after {settings.seconds:g} s (renew=False), but execution_timeout is {longest:g} s",
            "make lock_ttl longer than execution_timeout, or leave renew out",
        )
    if settings.max_run_time is not None and settings.max_run_time > longest:
        yield _warning(
            task,
            f"max_run_time is {settings.max_run_time:g} s, but execution_timeout ends the task after {longest:g} s",
            "make max_run_time shorter than execution_timeout, or leave it out",
        )
    # Airflow 2 counts the time in which a task was deferred as well.
    counted = ("worker",) if AIRFLOW_V_3_0_PLUS else ("worker", "defer")
    patience = float("inf") if task.wait_timeout is None else task.wait_timeout
    if task.on_busy == "wait" and task.wait_mode in counted and patience > longest:
        yield _warning(
            task,
            f"it may wait for longer than its execution_timeout of {longest:g} s, which counts while it waits",
            "set a wait_timeout that leaves time for the work, or wait_mode='reschedule'",
        )


def _of_waiting(task: Any) -> Iterator[Finding]:
    if task.wait_mode == "worker" and config.is_sequential():
        yield _warning(
            task, "it waits in the worker, and the SequentialExecutor's scheduler with it", "leave wait_mode out"
        )


def _of_poking(sensor: Any) -> Iterator[Finding]:
    if sensor.mode == "poke" and not sensor.deferrable and config.is_sequential():
        yield _warning(
            sensor, "it pokes in the worker, and the SequentialExecutor's scheduler stops", "set mode='reschedule'"
        )


def _of_names(tasks: Iterable[Any]) -> Iterator[Finding]:
    named = defaultdict(list)
    for task in tasks:
        if task.job_name is not None and is_known(task.job_name) and task.run_key is None:
            named[task.job_name].append(task)
    for name, sharing in sorted(named.items()):
        if len({task.dag_id for task in sharing}) > 1:
            others = ", ".join(sorted(_name(task) for task in sharing))
            yield Finding(
                "warning",
                others,
                f"they share job_name={name!r}: of the same tick one runs, and the others find it done",
                "name the jobs differently, unless they are one and the same",
            )


def _warning(task: Any, text: str, cure: str) -> Finding:
    return Finding("warning", _name(task), text, cure)


def _name(task: Any) -> str:
    return f"{task.dag_id}.{task.task_id}"


def _dag_bag(folder: str) -> Any:
    if AIRFLOW_V_3_0_PLUS:
        return import_module("airflow.dag_processing.dagbag").DagBag(folder)
    return import_module("airflow.models.dagbag").DagBag(folder, include_examples=False)
