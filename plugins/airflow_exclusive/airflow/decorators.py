"""`@task.exclusive`, and the same by plain import for a drop-in, which has no provider metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs
from airflow.providers.standard.operators.python import PythonOperator

from airflow_exclusive.airflow.compat import DecoratedOperator, TaskDecorator, TaskDecoratorBase
from airflow_exclusive.airflow.early_checks import check_default_args
from airflow_exclusive.airflow.mixin import OWN_TEMPLATE_FIELDS, ExclusiveMixin, check_own, check_partial
from airflow_exclusive.airflow.operators import LeaseAsArgument
from airflow_exclusive.core.errors import InvalidSetting


class _Decorated:
    """Hands the function's arguments to both bases of a decorated operator."""

    def __init__(self, *, python_callable: Any, op_args: Any = None, op_kwargs: Any = None, **kwargs: Any) -> None:
        upstream = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(kwargs_to_upstream=upstream, **upstream, **kwargs)  # type: ignore[call-arg]


class ExclusiveDecoratedOperator(ExclusiveMixin, LeaseAsArgument, _Decorated, DecoratedOperator, PythonOperator):
    """A decorated function on exactly one node, once per tick."""

    custom_operator_name = "@task.exclusive"
    template_fields = (*OWN_TEMPLATE_FIELDS, *PythonOperator.template_fields)
    template_fields_renderers = PythonOperator.template_fields_renderers


class _Task(TaskDecoratorBase):  # type: ignore[misc]
    """A decorated function, whose settings are checked before it is called, since mapped it makes no task yet."""

    def __attrs_post_init__(self) -> None:
        check_partial(self.kwargs)
        super().__attrs_post_init__()

    def _expand(self, expand_input: Any, *, strict: bool) -> Any:
        """Of `expand()` and `expand_kwargs()`."""
        made = super()._expand(expand_input, strict=strict)
        check_default_args(check_own, self.kwargs, made.operator.dag, made.operator.task_group)
        return made


def exclusive_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a function a task that runs on exactly one node, once per tick.

        @exclusive_task(job_name="flights_rollup", lock_ttl=30)      # or @task.exclusive(…)
        def roll_up(lease):
            with lease.transaction(connection) as tx: ...

    Takes the arguments of `ExclusiveMixin` and of `@task`. A parameter `lease` of the function is given the lease.
    """

    if python_callable is not None and not callable(python_callable):
        raise InvalidSetting(
            "@task.exclusive", python_callable, f"must be given its arguments by name: job_name={python_callable!r}"
        )

    def decorated(function: Callable[..., Any]) -> Any:
        return _Task(
            function=function,
            multiple_outputs=attrs.NOTHING if multiple_outputs is None else multiple_outputs,
            operator_class=ExclusiveDecoratedOperator,
            kwargs=dict(kwargs),
        )

    return cast("TaskDecorator", decorated if python_callable is None else decorated(python_callable))
