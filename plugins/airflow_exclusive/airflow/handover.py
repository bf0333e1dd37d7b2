"""Where a guarded task finds its lease while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from airflow_exclusive.airflow.compat import Context
from airflow_exclusive.airflow.late_fields import filled_in, refuse_left_over

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease


@runtime_checkable
class TakesLease(Protocol):
    """An operator with a way of its own to hand the lease to its job."""

    def take_lease(self, lease: Lease) -> None: ...


@contextmanager
def handed(lease: Lease, task: Any, context: Context, within: Iterable[tuple[Any, Iterable[str]]]) -> Iterator[None]:
    """In the context, as `task.lease`, and in the task's templated fields and arguments.

    within: objects in those fields, and which fields of theirs Airflow has rendered. Other tasks of the process may
    share them, so they don't keep the lease.
    """
    context["lease"] = lease  # type: ignore[typeddict-unknown-key]
    before = [(each, name, getattr(each, name, None)) for each, names in within for name in names]
    if shown := not hasattr(task, "lease"):
        task.lease = lease
    try:
        for each, name, value in [(task, name, getattr(task, name, None)) for name in task.template_fields] + before:
            setattr(each, name, filled_in(value, lease))
            refuse_left_over(name, getattr(each, name))
        if isinstance(task, TakesLease):
            task.take_lease(lease)
        yield
    finally:
        if shown:
            del task.lease
        for each, name, value in before:
            setattr(each, name, value)
