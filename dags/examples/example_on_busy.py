"""Somebody else has the job: skip, wait or fail."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator

COMMON = {"schedule": None, "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

SKIP = """
### `on_busy="skip"`, the default

Somebody has the job, so this run need not: the task is skipped, and so is what follows it. Trigger this DAG twice
within ten seconds to see it. The log and the XCom `exclusive` say who has it, since when and until when.
"""

with DAG("example_on_busy_skip", tags=["exclusive", "policy"], doc_md=SKIP, **COMMON):
    ExclusiveBashOperator(task_id="work", job_name="example_busy_skip", on_busy="skip", bash_command="sleep 10")

WAIT = """
### `on_busy="wait"`: standby

Wait until whoever has the job is through. If it did the same tick, that is it (`on_done` decides what the task
becomes); if it was another tick, or its node died, this run takes its turn. A second deployment that stands by, or a
disaster-recovery site, wants this. `wait_timeout` ends the waiting as a failure, `wait_mode` says where to wait.
Trigger this DAG twice to see it.
"""

with DAG("example_on_busy_wait", tags=["exclusive", "policy"], doc_md=WAIT, **COMMON):
    ExclusiveBashOperator(
        task_id="work",
        job_name="example_busy_wait",
        on_busy="wait",
        wait_timeout=timedelta(minutes=10),
        bash_command="sleep 10",
    )

FAIL = """
### `on_busy="fail"`

For a job that must never be asked for while it runs: the task fails, and alerts and retries do what they always do.
Trigger this DAG twice within ten seconds to see it.
"""

with DAG("example_on_busy_fail", tags=["exclusive", "policy"], doc_md=FAIL, **COMMON):
    ExclusiveBashOperator(
        task_id="work",
        job_name="example_busy_fail",
        on_busy="fail",
        retries=2,
        retry_delay=timedelta(seconds=10),
        bash_command="sleep 10",
    )
