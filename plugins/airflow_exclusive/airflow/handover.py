"""Where a guarded task finds its lease while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from airflow_exclusive.airflow.compat import Context
from airflow_exclusive.airflow.late_fields import filled_in

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease


@runtime_checkable
class TakesLease(Protocol):
    """An operator with a way of its own to hand the lease to its job."""

    def take_lease(self, lease: Lease) -> None: ...


def hand_lease(lease: Lease, task: Any, context: Context) -> None:
    """In the context, and in the task's templated fields and arguments."""
    context["lease"] = lease  # type: ignore[typeddict-unknown-key]
    for name in task.template_fields:
        setattr(task, name, filled_in(getattr(task, name, None), lease))
    if isinstance(task, TakesLease):
        task.take_lease(lease)
