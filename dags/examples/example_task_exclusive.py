"""A function as an exclusive task, by the decorator that Airflow finds in the installed package's metadata."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import DAG, task

from airflow_exclusive import Lease
from include import samples

COMMON = {"schedule": "0 3 * * *", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

DECORATOR = """
### `@task.exclusive`

As `@task`, on exactly one node. Airflow knows this decorator from the installed package's metadata; where the package
only lies in the plugins folder, this file can't be loaded: use `exclusive_task`, which is the same.
"""

with DAG("example_task_exclusive", tags=["exclusive", "decorator"], doc_md=DECORATOR, **COMMON):

    @task.exclusive(job_name="example_decorated")
    def work(lease: Lease) -> int:
        return samples.work_in_steps(lease, steps=3)

    work()
