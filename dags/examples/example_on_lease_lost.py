"""The lease is lost while the job runs: stop it, let it find out, or only warn."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator, ExclusivePythonOperator, Lease, exclusive_task
from include import samples

COMMON = {"schedule": None, "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

STOP = """
### `on_lease_lost="stop"`, the default

A job that can't renew its lease, or that somebody released, is ended before another node may begin: SIGTERM, then
SIGKILL after a grace. See it by releasing the job while it sleeps:

    airflow-exclusive release example_lost_stop --reason "trying it out"
"""

with DAG("example_on_lease_lost_stop", tags=["exclusive", "policy"], doc_md=STOP, **COMMON):
    ExclusiveBashOperator(
        task_id="work", job_name="example_lost_stop", lock_ttl=15, on_lease_lost="stop", bash_command="sleep 60"
    )

RAISE = """
### `on_lease_lost="raise"`

Nobody kills the job. `LeaseLost` is raised where the job says that it may be: at the next `lease.ensure_held()`, or
when it wants to commit a `lease.transaction`. For jobs that must only stop between two steps. Between these places it
may overlap with its successor, so what it writes should go through `lease.transaction` or carry the token.

    airflow-exclusive release example_lost_raise --reason "trying it out"
"""

with DAG("example_on_lease_lost_raise", tags=["exclusive", "policy"], doc_md=RAISE, **COMMON):
    ExclusivePythonOperator(
        task_id="work",
        job_name="example_lost_raise",
        lock_ttl=15,
        on_lease_lost="raise",
        python_callable=samples.work_in_steps,
        op_kwargs={"steps": 60},
    )

WARN = """
### `on_lease_lost="warn"`

The job goes on to its end, and only its log says that it lost the lease. Its result is refused all the same: the task
fails when somebody took over or released it. For work that does no harm when two do it.

    airflow-exclusive release example_lost_warn --reason "trying it out"
"""

with DAG("example_on_lease_lost_warn", tags=["exclusive", "policy"], doc_md=WARN, **COMMON):

    @exclusive_task(job_name="example_lost_warn", lock_ttl=15, on_lease_lost="warn")
    def work(lease: Lease) -> int:
        return samples.work_in_steps(lease, steps=60)

    work()
