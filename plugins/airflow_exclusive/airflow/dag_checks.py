"""What can be said about guarded tasks once whole DAGs are there: settings that don't fit each other, or the executor.

What a task's own settings tell is refused where it is made.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

from airflow_exclusive.airflow import config, waiting
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
from airflow_exclusive.airflow.mixin import ExclusiveMixin
from airflow_exclusive.airflow.shared_jobs import shared_jobs
from airflow_exclusive.airflow.task_runs import SENSORS, CannotBeMade, TaskRun, name_of, runs_of
from airflow_exclusive.airflow.work import INSTEAD_OF_DEFERRING, INSTEAD_OF_TRIGGERING
from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.core.timing import TrustWindow

_POKES = "it pokes in the worker, and the SequentialExecutor's scheduler stops"


def findings_in(folder: str | Path, *, executor: str | None = None, triggerer: bool = False) -> list[Finding]:
    """What is wrong with the DAGs of a folder, files that can't be imported included.

    executor: that of the deployment in question, e.g. "SequentialExecutor"; left out, the configured one.
    triggerer: whether a deployment with the SequentialExecutor has one. Nothing here can tell; others are thought to.
    """
    path = Path(folder).absolute()
    if not path.exists():
        return [Finding("error", str(path), "there is no such folder", "name the one that has the DAGs")]
    with _on_sys_path(path if path.is_dir() else path.parent):
        bag = _dag_bag(str(path))
    broken = [Finding("error", str(file), str(error).strip()) for file, error in bag.import_errors.items()]
    if not bag.dags and not broken:
        return [Finding("error", str(path), "there is no DAG in it", "name the folder that has the DAGs")]
    return [*broken, *findings_of(bag.dags.values(), executor=executor, triggerer=triggerer)]


def findings_of(dags: Iterable[Any], *, executor: str | None = None, triggerer: bool = False) -> list[Finding]:
    """What is wrong with these DAGs; arguments as for `findings_in`."""
    sequential = config.is_sequential(executor)
    runs: list[TaskRun] = []
    found: list[Finding] = []
    for task in (each for dag in dags for each in dag.tasks):
        try:
            runs.extend(runs_of(task))
        except (InvalidSetting, CannotBeMade) as error:
            found.append(Finding("error", name_of(task), str(error)))
    guarded = [run for run in runs if isinstance(run.task, ExclusiveMixin)]
    for task in (run.task for run in guarded):
        found.extend(_of_leaving(task))
        wait_mode = (
            waiting.suitable(executor) if task.exclusive_wait_mode_left_out else task.exclusive_setting("wait_mode")
        )
        found.extend(_of_lengths(task, wait_mode, sequential))
        if sequential:
            found.extend(_of_waiting(task, wait_mode, triggerer))
    if sequential:
        sensors = (run.task for run in runs if isinstance(run.task, SENSORS))
        found.extend(finding for sensor in sensors for finding in _of_poking(sensor, triggerer))
    return list(dict.fromkeys([*found, *shared_jobs(guarded)]))  # what several of a mapped task have is said once


def _of_leaving(task: Any) -> Iterator[Finding]:
    """Operators that can't be guarded, whatever their settings."""
    if AIRFLOW_V_3_0_PLUS and isinstance(task, TriggerDagRunOperator):
        text = "it has Airflow trigger a run after its end, when the lease is over: each of its runs fails"
        yield Finding("error", name_of(task), text, INSTEAD_OF_TRIGGERING)
    elif _always_defers(getattr(super(ExclusiveMixin, task).execute, "__func__", None)):
        text = "it leaves its worker to wait, which an exclusive task can't do yet: each of its runs fails"
        yield Finding("error", name_of(task), text, INSTEAD_OF_DEFERRING)


@cache
def _always_defers(execute: Any) -> bool:
    """Whether it can't end but by `self.defer(…)`."""
    try:
        (written,) = ast.parse(dedent(inspect.getsource(execute))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    if not isinstance(written, ast.FunctionDef) or any(isinstance(node, ast.Return) for node in ast.walk(written)):
        return False
    end = written.body[-1]
    return isinstance(end, ast.Expr) and isinstance(end.value, ast.Call) and ast.unparse(end.value.func) == "self.defer"


def _of_lengths(task: Any, wait_mode: str, sequential: bool) -> Iterator[Finding]:
    settings = task.exclusive_lease_settings
    if task.execution_timeout is None:
        return
    longest = task.execution_timeout.total_seconds()
    fixed = TrustWindow(settings.seconds, confirmed=0.0, renew=False).stop_at
    if not settings.renew and fixed < longest:
        yield _warning(
            task,
            f"its lease of {settings.seconds:g} s (renew=False) leaves it {fixed:g} s, "
            f"but execution_timeout is {longest:g} s",
            "make lock_ttl longer, or leave renew out",
        )
    if settings.max_run_time is not None and settings.max_run_time > longest:
        yield _warning(
            task,
            f"max_run_time is {settings.max_run_time:g} s, but execution_timeout ends the task after {longest:g} s",
            "make max_run_time shorter than execution_timeout, or leave it out",
        )
    # Airflow 2 counts the time in which a task was deferred as well; the SequentialExecutor is of Airflow 2.
    counted = ("worker",) if AIRFLOW_V_3_0_PLUS and not sequential else ("worker", "defer")
    patience = (
        float("inf") if task.exclusive_setting("wait_timeout") is None else task.exclusive_setting("wait_timeout")
    )
    if task.exclusive_setting("on_busy") == "wait" and wait_mode in counted and patience > longest:
        yield _warning(
            task,
            f"it may wait for longer than its execution_timeout of {longest:g} s, which counts while it waits",
            "set a wait_timeout that leaves time for the work, or wait_mode='reschedule'",
        )


def _of_waiting(task: Any, wait_mode: str, triggerer: bool) -> Iterator[Finding]:
    if wait_mode == "worker":
        yield _warning(
            task, "it waits in the worker, and the SequentialExecutor's scheduler with it", "leave wait_mode out"
        )
    elif wait_mode == "defer" and not triggerer:
        cure = "turn [operators] default_deferrable off" if task.exclusive_wait_mode_left_out else "leave wait_mode out"
        yield _without_triggerer(task, cure)
    if getattr(task, "mode", None) == "poke":  # the only mode that a guarded sensor may have
        yield _warning(
            task,
            _POKES,
            "let an unguarded sensor with mode='reschedule' wait, and an exclusive task come after it",
        )


def _of_poking(sensor: Any, triggerer: bool) -> Iterator[Finding]:
    if sensor.deferrable:
        if not triggerer:
            yield _without_triggerer(sensor, "set mode='reschedule' and deferrable=False")
    elif sensor.mode == "poke":
        yield _warning(sensor, _POKES, "set mode='reschedule'")


def _without_triggerer(task: Any, cure: str) -> Finding:
    text = "it waits in the triggerer, which deployments with the SequentialExecutor often lack: nobody wakes it there"
    return _warning(task, text, f"{cure}, or start a triggerer and say triggerer=True here")


def _warning(task: Any, text: str, cure: str) -> Finding:
    return Finding("warning", name_of(task), text, cure)


@contextmanager
def _on_sys_path(folder: Path) -> Iterator[None]:
    """As Airflow has the DAGs' folder: they import what lies beside them."""
    entry = str(folder)
    if entry in sys.path:
        yield
        return
    sys.path.append(entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _dag_bag(folder: str) -> Any:
    if AIRFLOW_V_3_0_PLUS:
        return import_module("airflow.dag_processing.dagbag").DagBag(folder)
    return import_module("airflow.models.dagbag").DagBag(folder, include_examples=False)
