"""Operators of which exactly one node runs each tick."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import ExternalPythonOperator, PythonOperator, PythonVirtualenvOperator

from airflow_exclusive.airflow.compat import BaseOperator, Context
from airflow_exclusive.airflow.mixin import OWN_TEMPLATE_FIELDS, ExclusiveMixin, own_template_fields
from airflow_exclusive.core.errors import InvalidSetting

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease

AnyOperator = TypeVar("AnyOperator", bound=BaseOperator)


class _LeaseInEnv:
    """For operators that give their child process an environment of its own making."""

    def get_env(self, context: Context) -> dict[str, str]:
        lease: Lease = context["lease"]  # type: ignore[typeddict-item]
        return {**super().get_env(context), **lease.environment}  # type: ignore[misc]


class LeaseAsArgument:
    """For operators that call a function: it gets the lease if it has a parameter `lease`."""

    op_kwargs: Any

    def __init__(self, *, python_callable: Any, op_kwargs: Any = None, **kwargs: Any) -> None:
        op_kwargs = {} if op_kwargs is None else op_kwargs
        known = isinstance(op_kwargs, Mapping)  # else an upstream task will give them
        self._wants_lease = _has_parameter(python_callable, "lease") and not (known and "lease" in op_kwargs)
        if self._wants_lease and isinstance(self, (ExternalPythonOperator, PythonVirtualenvOperator)):
            raise InvalidSetting(
                "python_callable",
                python_callable,
                "can't be given its parameter 'lease' in another Python: leave it out, and let the function call"
                " inherited_lease(), or read EXCLUSIVE_TOKEN in os.environ",
            )
        if self._wants_lease and known:
            op_kwargs = {**op_kwargs, "lease": None}  # Airflow checks the arguments long before there is one
        super().__init__(python_callable=python_callable, op_kwargs=op_kwargs, **kwargs)  # type: ignore[call-arg]

    def take_lease(self, lease: Lease) -> None:
        if self._wants_lease:
            self.op_kwargs = {**self.op_kwargs, "lease": lease}


class ExclusiveBashOperator(ExclusiveMixin, _LeaseInEnv, BashOperator):
    """`BashOperator` on exactly one node, once per tick.

        ExclusiveBashOperator(task_id="backup", bash_command="pg_dump …", job_name="backup_daily", lock_ttl=90)

    All of `ExclusiveMixin` and of `BashOperator`. The command finds the lease in `$EXCLUSIVE_TOKEN`,
    `$EXCLUSIVE_JOB`, `$EXCLUSIVE_RUN_KEY`, `$EXCLUSIVE_GENERATION`.
    """

    template_fields = (*OWN_TEMPLATE_FIELDS, *BashOperator.template_fields)


class ExclusivePythonOperator(ExclusiveMixin, LeaseAsArgument, PythonOperator):
    """`PythonOperator` on exactly one node, once per tick. A parameter `lease` of the function is given the lease."""

    template_fields = (*OWN_TEMPLATE_FIELDS, *PythonOperator.template_fields)


@cache
def exclusive(operator: type[AnyOperator]) -> type[AnyOperator]:
    """The operator class with admission: `exclusive(SQLExecuteQueryOperator)(task_id=…, job_name=…, …)`.

    The class that comes back takes all of `ExclusiveMixin`'s arguments besides its own. Asked for twice it is the same.
    """
    if not _is_operator_class(operator):
        raise InvalidSetting("exclusive()", operator, "must be given an operator class, e.g. exclusive(BashOperator)")
    if ExclusiveMixin in operator.__mro__:
        return operator
    bases: tuple[type, ...] = (ExclusiveMixin, operator)
    if issubclass(operator, BashOperator):
        bases = (ExclusiveMixin, _LeaseInEnv, operator)
    elif issubclass(operator, PythonOperator):
        bases = (ExclusiveMixin, LeaseAsArgument, operator)
    body = {
        "__module__": operator.__module__,
        "__doc__": f"`{operator.__name__}` on exactly one node, once per tick.\n\n{ExclusiveMixin.__doc__}",
    }
    metaclass: Any = type(operator)
    guarded: Any = metaclass(f"Exclusive{operator.__name__}", bases, body)
    guarded.template_fields = (*own_template_fields(guarded.exclusive_names), *operator.template_fields)
    return guarded  # type: ignore[no-any-return]


def _is_operator_class(given: object) -> bool:
    return isinstance(given, type) and issubclass(given, BaseOperator)


def _has_parameter(function: Any, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
