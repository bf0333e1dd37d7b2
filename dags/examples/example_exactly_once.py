"""Effects that happen exactly once: two steps in a database, and the token for everything else."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator, Lease, exclusive_task
from include import samples, warehouse

COMMON = {"schedule": "0 4 * * *", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

TWO_STEPS = """
### Two steps, each exactly once

Each `lease.transaction(conn, step=…)` commits its writes together with a mark for (job, tick, step). If the worker
dies between the two, the retry finds the mark of the first (`tx.done`) and goes on with the second. A worker that was
frozen, replaced and thawed is refused by its token.

The database needs the two small tables of `airflow-exclusive init --effects`. It may be any PostgreSQL, not only the
one that holds the status. A task that a person clears after its success runs again in full: that was asked for.
"""

with DAG("example_exactly_once", tags=["exclusive", "effects"], doc_md=TWO_STEPS, **COMMON):

    @exclusive_task(job_name="till_to_bank", retries=3, retry_delay=timedelta(seconds=5))
    def transfer(lease: Lease) -> None:
        with warehouse.from_airflow() as conn:
            samples.transfer(lease, conn, amount=100)

    transfer()

ELSEWHERE = """
### Other systems: hand over the token

`{{ lease.token }}` grows with every attempt of the job and never falls. A system that remembers the highest token it
has seen, and refuses smaller ones, is safe from workers that wake up too late. Give it as a header, a version or a
column.
"""

with DAG("example_lease_token", tags=["exclusive", "effects"], doc_md=ELSEWHERE, **COMMON):
    ExclusiveBashOperator(
        task_id="publish",
        job_name="publish_prices",
        bash_command="echo PUT /prices -H 'If-Newer-Than: {{ lease.token }}' -H 'Idempotency-Key: {{ lease.run_key }}'",
    )
