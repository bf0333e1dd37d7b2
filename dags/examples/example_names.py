"""What a job and a tick are called: templates, families of jobs, mapped tasks."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator, Lease, exclusive_task
from include import samples

COMMON = {"start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

FAMILY = """
### One task, a family of jobs

`job_name` and `run_key` are templates. Runs for different customers are different jobs and go side by side; two runs
for one customer are the same job. The tick is that customer's invoice number: however often somebody triggers this
DAG for invoice 17, it is sent once.
"""

with DAG(
    "example_templated_names",
    schedule=None,
    params={"customer": "acme", "invoice": 17},
    tags=["exclusive", "names"],
    doc_md=FAMILY,
    **COMMON,
):
    ExclusiveBashOperator(
        task_id="send",
        job_name="invoices of {{ params.customer }}",
        run_key="invoice {{ params.invoice }}",
        bash_command="echo sending invoice {{ params.invoice }} to {{ params.customer }}",
    )

MAPPED = """
### Mapped tasks, with a key each

Left out, a mapped task's `job_name` ends in `[<map_index>]`, so that its instances don't shut each other out. Where
the number means nothing, name what it stands for, as here: then the airport keeps its name when the list changes.
Instances that share job and tick are refused with an error, since all but one would silently do nothing.
"""

with DAG("example_mapped", schedule="0 5 * * *", tags=["exclusive", "names"], doc_md=MAPPED, **COMMON):
    ExclusiveBashOperator.partial(task_id="import_airport").expand_kwargs(
        [
            {"job_name": f"import of {airport}", "bash_command": f"echo importing {airport}"}
            for airport in ("EWR", "JFK", "LGA")
        ]
    )

MAPPED_FUNCTION = """
### A mapped function

Here the default does: the jobs are called `example_mapped_function.work[0]` to `[2]`.
"""

with DAG(
    "example_mapped_function", schedule="0 5 * * *", tags=["exclusive", "names"], doc_md=MAPPED_FUNCTION, **COMMON
):

    @exclusive_task
    def work(steps: int, lease: Lease | None = None) -> int:
        assert lease is not None
        return samples.work_in_steps(lease, steps)

    work.expand(steps=[1, 2, 3])
