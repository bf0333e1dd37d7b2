"""Tasks that have a job and its tick in common, so that only one of them runs, or all but one fail."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from airflow_exclusive.airflow.early_checks import is_known
from airflow_exclusive.airflow.task_runs import TaskRun, name_of
from airflow_exclusive.core.findings import Finding

_OF_THE_TIME = frozenset(
    {"ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"}
    | {"logical_date", "execution_date", "data_interval_start", "data_interval_end"}
)
"""What templates may name that is the same in all DAG runs of the same tick."""
_OF_THE_DAG_RUN = frozenset({"dag", "dag_run", "run_id"})
"""And in all tasks of the same run."""
_AFTER_SUCCESS = ("all_success", "one_success", "none_failed", "none_failed_min_one_success")


def shared_jobs(guarded: Iterable[TaskRun]) -> Iterator[Finding]:
    """Those among tasks that run whatever the others do, as far as the DAGs tell."""
    sharing = defaultdict(list)
    for run in guarded:
        if (tick := _tick_of(run)) is not None:
            sharing[tick].append(run)
    for (name, run_key, _), runs in sorted(sharing.items(), key=str):
        what = f"job_name={name!r}" + ("" if run_key is None else f" and run_key={run_key!r}")
        times = Counter(name_of(run.task) for run in runs)
        for task in sorted(name for name in times if times[name] > 1):
            yield Finding(
                "error",
                task,
                f"its mapped instances share {what}: of the same tick one runs, and the others fail",
                "put {{ ti.map_index }} or the mapped value into job_name or run_key",
            )
        one_of = {name_of(run.task): run for run in runs}.values()
        if both := [run for run in one_of if any(_both_run(run, other) for other in one_of if other is not run)]:
            yield Finding(
                "warning",
                ", ".join(sorted(name_of(run.task) for run in both)),
                f"they share {what}: of the same tick one runs, and the others find it done",
                "name the jobs differently, unless they are one and the same",
            )


def _tick_of(run: TaskRun) -> tuple[str, str | None, str | None] | None:
    """What only one can run: job_name and run_key, as they are written, and the DAG where they are only known in it.

    None where a template may make of them something else for each task.
    """
    name, run_key = run.task.exclusive_setting("job_name"), run.task.exclusive_setting("run_key")
    if name is None:
        name = name_of(run.task) + ("" if run.index is None else f"[{run.index}]")
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


def _both_run(one: TaskRun, other: TaskRun) -> bool:
    """Whether both run in the same tick, as far as the DAG tells: not where a condition or a failure decides."""
    if one.task.dag_id != other.task.dag_id:
        return True
    ones, others = _conditions(one), _conditions(other)
    return not ((ones - others and others - ones) or _stands_in(one, other) or _stands_in(other, one))


def _conditions(run: TaskRun) -> set[tuple[str, str]]:
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


def _stands_in(run: TaskRun, other: TaskRun) -> bool:
    """Whether it runs in place of one before it that has failed."""
    for task in [run.written, *run.written.get_flat_relatives(upstream=True)]:
        if task.trigger_rule not in _AFTER_SUCCESS and other.task.task_id in task.get_flat_relative_ids(upstream=True):
            return True
    return False
