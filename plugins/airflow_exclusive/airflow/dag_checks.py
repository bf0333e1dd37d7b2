"""What can be said about guarded tasks once whole DAGs are there: settings that don't fit each other, or the executor.

What a task's own settings tell is refused where it is made. A mapped task is looked at as the tasks that it will be, as
far as the values that it is mapped over are there when the DAG is parsed.
"""

from __future__ import annotations

import ast
import inspect
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import islice, product
from math import prod
from pathlib import Path
from textwrap import dedent
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

from airflow_exclusive.airflow import config, waiting
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
from airflow_exclusive.airflow.early_checks import is_known
from airflow_exclusive.airflow.mixin import INSTEAD_OF_DEFERRING, INSTEAD_OF_TRIGGERING, ExclusiveMixin
from airflow_exclusive.airflow.sensors import JobAdmissionSensor, JobStatusSensor
from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.core.timing import TrustWindow

_SENSORS = (JobAdmissionSensor, JobStatusSensor)
_POKES = "it pokes in the worker, and the SequentialExecutor's scheduler stops"
_AT_MOST = 1000
"""So many tasks of a mapped one are looked at."""
_OF_THE_TIME = frozenset(
    {"ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"}
    | {"logical_date", "execution_date", "data_interval_start", "data_interval_end"}
)
"""What templates may name that is the same in all DAG runs of the same tick."""
_OF_THE_DAG_RUN = frozenset({"dag", "dag_run", "run_id"})
"""And in all tasks of the same run."""
_AFTER_SUCCESS = ("all_success", "one_success", "none_failed", "none_failed_min_one_success")


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
    runs: list[_Run] = []
    found: list[Finding] = []
    for task in (each for dag in dags for each in dag.tasks):
        try:
            runs.extend(_runs_of(task))
        except (InvalidSetting, _CannotBeMade) as error:
            found.append(Finding("error", _name(task), str(error)))
    guarded = [run for run in runs if isinstance(run.task, ExclusiveMixin)]
    for task in (run.task for run in guarded):
        found.extend(_of_leaving(task))
        wait_mode = waiting.suitable(executor) if task.wait_mode_left_out else task.own("wait_mode")
        found.extend(_of_lengths(task, wait_mode, sequential))
        if sequential:
            found.extend(_of_waiting(task, wait_mode, triggerer))
    if sequential:
        sensors = (run.task for run in runs if isinstance(run.task, _SENSORS))
        found.extend(finding for sensor in sensors for finding in _of_poking(sensor, triggerer))
    return list(dict.fromkeys([*found, *_of_names(guarded)]))  # what several of a mapped task have is said once


@dataclass(frozen=True)
class _Run:
    """A task as it will run: `task` is made of what is `written` in the DAG. index: which one of a mapped task."""

    task: Any
    written: Any
    index: int | None = None


class _CannotBeMade(Exception):
    """One of a mapped task's tasks, although all that it is made of is there."""


def _runs_of(task: Any) -> Iterator[_Run]:
    """The task, or those of ours that a mapped one will be. Raises what one of these will."""
    if not hasattr(task, "partial_kwargs"):
        groups = [islice(_mapped_over(group._expand_input.value), _AT_MOST) for group in task.iter_mapped_task_groups()]
        times = prod(sum(1 for _ in group) or 1 for group in groups)
        indexes = range(min(times, _AT_MOST)) if groups else [None]
        yield from (_Run(task, task, index) for index in indexes)
        return
    if not issubclass(task.operator_class, (ExclusiveMixin, *_SENSORS)):
        return
    function_arguments = getattr(task, "op_kwargs_expand_input", None)
    each: Iterable[tuple[Mapping[str, Any], bool]]
    if function_arguments is not None:  # a decorated function: only what it is called with differs
        calls = islice(_mapped_over(function_arguments.value), _AT_MOST)
        each = [({"op_kwargs": call}, True) for call in calls] or [({"op_kwargs": {}}, False)]
    else:
        sets = islice(_mapped_over(task.expand_input.value), _AT_MOST)
        each = ((arguments, _is_there(arguments)) for arguments in sets)
    for index, (arguments, complete) in enumerate(each):
        if (made := _made(task, arguments, complete)) is not None:
            yield _Run(made, task, index)


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


def _made(mapped: Any, arguments: Mapping[str, Any], complete: bool) -> Any:
    """The task with these arguments; None where it can't be made before others have run, who give some of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mapped.unmap(arguments)
    except InvalidSetting as error:
        if is_known(error.value):
            raise
    except Exception as error:
        if complete:
            raise _CannotBeMade(str(error) or type(error).__name__) from error
    return None


def _is_there(value: Any) -> bool:
    """Whether no other task will give it, or a part of it. A template is a text until the task is rendered."""
    if isinstance(value, Mapping):
        return all(_is_there(part) for part in value.values())
    if isinstance(value, (list, tuple, set)):
        return all(_is_there(part) for part in value)
    return not hasattr(value, "resolve")


def _of_leaving(task: Any) -> Iterator[Finding]:
    """Operators that can't be guarded, whatever their settings."""
    if AIRFLOW_V_3_0_PLUS and isinstance(task, TriggerDagRunOperator):
        text = "it has Airflow trigger a run after its end, when the lease is over: each of its runs fails"
        yield Finding("error", _name(task), text, INSTEAD_OF_TRIGGERING)
    elif _always_defers(getattr(super(ExclusiveMixin, task).execute, "__func__", None)):
        text = "it leaves its worker to wait, which an exclusive task can't do yet: each of its runs fails"
        yield Finding("error", _name(task), text, INSTEAD_OF_DEFERRING)


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


def _of_names(guarded: Iterable[_Run]) -> Iterator[Finding]:
    sharing = defaultdict(list)
    for run in guarded:
        if (tick := _tick_of(run)) is not None:
            sharing[tick].append(run)
    for (name, run_key, _), runs in sorted(sharing.items(), key=str):
        what = f"job_name={name!r}" + ("" if run_key is None else f" and run_key={run_key!r}")
        times = Counter(_name(run.task) for run in runs)
        for task in sorted(name for name in times if times[name] > 1):
            yield Finding(
                "error",
                task,
                f"its mapped instances share {what}: of the same tick one runs, and the others fail",
                "put {{ ti.map_index }} or the mapped value into job_name or run_key",
            )
        one_of = {_name(run.task): run for run in runs}.values()
        if both := [run for run in one_of if any(_both_run(run, other) for other in one_of if other is not run)]:
            yield Finding(
                "warning",
                ", ".join(sorted(_name(run.task) for run in both)),
                f"they share {what}: of the same tick one runs, and the others find it done",
                "name the jobs differently, unless they are one and the same",
            )


def _tick_of(run: _Run) -> tuple[str, str | None, str | None] | None:
    """What only one can run: job_name and run_key, as they are written, and the DAG where they are only known in it.

    None where a template may make of them something else for each task.
    """
    name, run_key = run.task.own("job_name"), run.task.own("run_key")
    if name is None:
        name = _name(run.task) + ("" if run.index is None else f"[{run.index}]")
    made_of = _names_in(name) | _names_in(run_key)
    if not made_of <= _OF_THE_TIME | _OF_THE_DAG_RUN:
        return None
    return name, run_key, None if made_of <= _OF_THE_TIME else run.task.dag_id


def _names_in(value: Any) -> set[str]:
    """What a template is made of."""
    if value is None or is_known(value):
        return set()
    from jinja2 import Environment, TemplateError, nodes

    try:
        parsed = Environment().parse(value)  # noqa: S701 - nothing is rendered
        return {name.name for name in parsed.find_all(nodes.Name)}
    except (TemplateError, TypeError):  # it will fail by itself, or another task gives it
        return {"?"}


def _both_run(one: _Run, other: _Run) -> bool:
    """Whether both run in the same tick, as far as the DAG tells: not where a condition or a failure decides."""
    if one.task.dag_id != other.task.dag_id:
        return True
    ones, others = _conditions(one), _conditions(other)
    return not ((ones - others and others - ones) or _stands_in(one, other) or _stands_in(other, one))


def _conditions(run: _Run) -> set[tuple[str, str]]:
    """The ways of branches that lead to it, and what else may have it skipped."""
    upstream = list(run.written.get_flat_relatives(upstream=True))
    on_its_way = {task.task_id for task in [*upstream, run.written]}
    found = {(run.task.task_id, "")} if run.task._pre_execute_hook else set()  # @task.run_if, @task.skip_if
    for task in upstream:
        kind = task.operator_class if hasattr(task, "partial_kwargs") else type(task)
        if hasattr(kind, "do_branch"):
            found |= {(task.task_id, way) for way in task.downstream_task_ids & on_its_way}
        elif hasattr(kind, "skip_all_except"):
            found.add((task.task_id, ""))
    return found


def _stands_in(run: _Run, other: _Run) -> bool:
    """Whether it runs in place of one before it that has failed."""
    for task in [run.written, *run.written.get_flat_relatives(upstream=True)]:
        if task.trigger_rule not in _AFTER_SUCCESS and other.task.task_id in task.get_flat_relative_ids(upstream=True):
            return True
    return False


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
