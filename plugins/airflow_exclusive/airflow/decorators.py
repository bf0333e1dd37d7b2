"""`@task.exclusive`, and the same by plain import for a drop-in, which has no provider metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.standard.operators.python import PythonOperator

from airflow_exclusive.airflow.compat import DecoratedOperator, TaskDecorator, task_decorator_factory
from airflow_exclusive.airflow.mixin import ExclusiveMixin
from airflow_exclusive.airflow.operators import OWN_TEMPLATE_FIELDS, LeaseAsArgument


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


def exclusive_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a function a task that runs on exactly one node, once per tick.

        @exclusive_task(job_name="flights_rollup", lock_ttl=30)      # or @task.exclusive(…)
        def roll_up(lease):
            with lease.transaction(connection) as tx: ...

    Takes the arguments of `ExclusiveMixin` and of `@task`. A parameter `lease` of the function is given the lease.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=ExclusiveDecoratedOperator,
        **kwargs,
    )
