"""What can be said about guarded tasks once whole DAGs are there: settings that don't fit each other, or the executor.

What a task's own settings tell is refused where it is made. A mapped task is looked at as the tasks that it will be, as
far as the values that it is mapped over are there when the DAG is parsed.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import islice, product
from pathlib import Path
from typing import Any

from airflow_exclusive.airflow import config, waiting
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
from airflow_exclusive.airflow.early_checks import is_known
from airflow_exclusive.airflow.mixin import ExclusiveMixin
from airflow_exclusive.airflow.sensors import JobAdmissionSensor, JobStatusSensor
from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.core.timing import TrustWindow

_SENSORS = (JobAdmissionSensor, JobStatusSensor)
_POKES = "it pokes in the worker, and the SequentialExecutor's scheduler stops"
_AT_MOST = 1000
"""So many tasks of a mapped one are looked at."""


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
    tasks: list[Any] = []
    found: list[Finding] = []
    for task in (each for dag in dags for each in dag.tasks):
        try:
            tasks.extend(_as_run(task))
        except InvalidSetting as error:
            found.append(Finding("error", _name(task), str(error)))
    guarded = [task for task in tasks if isinstance(task, ExclusiveMixin)]
    for task in guarded:
        wait_mode = waiting.suitable(executor) if task.wait_mode_left_out else task.own("wait_mode")
        found.extend(_of_lengths(task, wait_mode, sequential))
        if sequential:
            found.extend(_of_waiting(task, wait_mode, triggerer))
    if sequential:
        found.extend(finding for task in tasks if isinstance(task, _SENSORS) for finding in _of_poking(task, triggerer))
    return list(dict.fromkeys([*found, *_of_names(guarded)]))  # what several of a mapped task have is said once


def _as_run(task: Any) -> Iterator[Any]:
    """The task, or those of ours that a mapped one will be. Raises `InvalidSetting` where one of these can't be."""
    if not hasattr(task, "partial_kwargs"):
        yield task
        return
    if not issubclass(task.operator_class, (ExclusiveMixin, *_SENSORS)):
        return
    function_arguments = getattr(task, "op_kwargs_expand_input", None)
    if function_arguments is not None:  # a decorated function: only what it is called with differs
        each: Iterable[Mapping[str, Any]] = [{"op_kwargs": next(_mapped_over(function_arguments.value), {})}]
    else:
        each = islice(_mapped_over(task.expand_input.value), _AT_MOST)
    for arguments in each:
        if (made := _made(task, arguments)) is not None:
            yield made


def _mapped_over(given: Any) -> Iterator[dict[str, Any]]:
    """The arguments that are known when the DAG is parsed, of each task in turn."""
    if isinstance(given, Mapping):  # expand(): each value of each argument with each of the others
        for values in product(*(_values(value) for value in given.values())):
            yield dict(zip(given, values, strict=True))
    elif is_known(given):  # expand_kwargs()
        yield from (dict(arguments) for arguments in given if is_known(arguments))


def _values(given: Any) -> list[Any]:
    if not is_known(given):
        return [given]
    return list(given.items()) if isinstance(given, Mapping) else list(given)


def _made(mapped: Any, arguments: Mapping[str, Any]) -> Any:
    """The task with these arguments; None where it can't be made before others have run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mapped.unmap(arguments)
    except InvalidSetting as error:
        if is_known(error.value):
            raise
    except Exception:  # what the operator itself asks for isn't there yet
        return None
    return None


def _of_lengths(task: Any, wait_mode: str, sequential: bool) -> Iterator[Finding]:
    settings = task.lease_settings
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
    patience = float("inf") if task.own("wait_timeout") is None else task.own("wait_timeout")
    if task.own("on_busy") == "wait" and wait_mode in counted and patience > longest:
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
        cure = "turn [operators] default_deferrable off" if task.wait_mode_left_out else "leave wait_mode out"
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


def _of_names(tasks: Iterable[Any]) -> Iterator[Finding]:
    named = defaultdict(set)
    for task in tasks:
        if task.own("job_name") is not None and is_known(task.own("job_name")) and task.own("run_key") is None:
            named[task.own("job_name")].add((task.dag_id, _name(task)))
    for name, sharing in sorted(named.items()):
        if len({dag_id for dag_id, _ in sharing}) > 1:
            yield Finding(
                "warning",
                ", ".join(sorted(task for _, task in sharing)),
                f"they share job_name={name!r}: of the same tick one runs, and the others find it done",
                "name the jobs differently, unless they are one and the same",
            )


def _warning(task: Any, text: str, cure: str) -> Finding:
    return Finding("warning", _name(task), text, cure)


def _name(task: Any) -> str:
    return f"{task.dag_id}.{task.task_id}"


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
