"""Where a guarded task finds its lease while it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from airflow_exclusive.airflow.compat import Context
from airflow_exclusive.airflow.late_fields import filled_in

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease


@runtime_checkable
class TakesLease(Protocol):
    """An operator with a way of its own to hand the lease to its job."""

    def take_lease(self, lease: Lease) -> None: ...


@contextmanager
def handed_over(lease: Lease, task: Any, context: Context) -> Iterator[None]:
    """In the context, in the task's templated fields and arguments, and in the environment of what it starts."""
    context["lease"] = lease  # type: ignore[typeddict-unknown-key]
    for name in task.template_fields:
        setattr(task, name, filled_in(getattr(task, name, None), lease))
    if isinstance(task, TakesLease):
        task.take_lease(lease)
    before = {name: os.environ.get(name) for name in lease.environment}
    os.environ.update(lease.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
