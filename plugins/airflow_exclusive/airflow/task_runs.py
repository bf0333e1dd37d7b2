"""The tasks of a DAG as they will run: of a mapped one each, as far as what it is mapped over is known by then."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from typing import Any

from airflow_exclusive.airflow.early_checks import is_known
from airflow_exclusive.airflow.mixin import ExclusiveMixin
from airflow_exclusive.airflow.sensors import JobAdmissionSensor, JobStatusSensor
from airflow_exclusive.core.errors import InvalidSetting

SENSORS = (JobAdmissionSensor, JobStatusSensor)
_AT_MOST = 1000
"""So many tasks of a mapped one are looked at."""


@dataclass(frozen=True)
class TaskRun:
    """A task as it will run: `task` is made of what is `written` in the DAG. index: which one of a mapped task."""

    task: Any
    written: Any
    index: int | None = None


class CannotBeMade(Exception):
    """One of a mapped task's tasks, although all that it is made of is there."""


def runs_of(task: Any) -> Iterator[TaskRun]:
    """The task, or those of ours that a mapped one will be. Raises what one of these will."""
    if not hasattr(task, "partial_kwargs"):
        groups = [islice(_mapped_over(group._expand_input.value), _AT_MOST) for group in task.iter_mapped_task_groups()]
        times = prod(sum(1 for _ in group) or 1 for group in groups)
        indexes = range(min(times, _AT_MOST)) if groups else [None]
        yield from (TaskRun(task, task, index) for index in indexes)
        return
    if not issubclass(task.operator_class, (ExclusiveMixin, *SENSORS)):
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
            yield TaskRun(made, task, index)


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
            raise CannotBeMade(str(error) or type(error).__name__) from error
    return None


def _is_there(value: Any) -> bool:
    """Whether no other task will give it, or a part of it. A template is a text until the task is rendered."""
    if isinstance(value, Mapping):
        return all(_is_there(part) for part in value.values())
    if isinstance(value, (list, tuple, set)):
        return all(_is_there(part) for part in value)
    return not hasattr(value, "resolve")


def name_of(task: Any) -> str:
    return f"{task.dag_id}.{task.task_id}"
