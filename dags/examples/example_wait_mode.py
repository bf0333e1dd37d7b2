"""Waiting without holding a worker."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator

COMMON = {"schedule": None, "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

DEFER = """
### `wait_mode="defer"`: wait in the triggerer

The task leaves its worker and is woken when it is its turn. However many wait for a job, one of them is woken at a
time. Trigger this DAG three times and see how the runs follow one another, the others `deferred` meanwhile. With
`[operators] default_deferrable` all guarded tasks wait like this.

It needs a triggerer, which the mini deployment hasn't: there whoever has to wait isn't woken, and fails when
`wait_timeout` is over. What several deployments share does best to leave `wait_mode` out.
"""

with DAG("example_wait_mode_defer", tags=["exclusive", "policy"], doc_md=DEFER, **COMMON):
    ExclusiveBashOperator(
        task_id="work",
        job_name="example_wait_defer",
        on_busy="wait",
        wait_mode="defer",
        wait_timeout=timedelta(hours=1),
        bash_command="sleep 10",
    )

RESCHEDULE = """
### `wait_mode="reschedule"`: come back later

The task leaves its worker, and Airflow starts it again when the lease in its way may lapse, at the latest after
`wait_interval`. It needs no triggerer. Under Airflow 2's SequentialExecutor guarded tasks wait like this by
themselves, since a task that waits in its worker would stop the scheduler. Trigger this DAG twice to see it.
"""

with DAG("example_wait_mode_reschedule", tags=["exclusive", "policy"], doc_md=RESCHEDULE, **COMMON):
    ExclusiveBashOperator(
        task_id="work",
        job_name="example_wait_reschedule",
        on_busy="wait",
        wait_mode="reschedule",
        wait_interval=timedelta(seconds=10),
        bash_command="sleep 10",
    )
