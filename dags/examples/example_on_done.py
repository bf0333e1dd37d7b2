"""The tick has been done already: skip, count it as a success, or fail."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator

COMMON = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "catchup": False,
    "params": {"version": "1.4"},
}

SKIP = """
### `on_done="skip"`, the default

The tick is named after a version here, so the migration to 1.4 is applied once, whoever triggers this DAG and however
often. From the second time on the task is skipped, and what follows it too.
"""

with DAG("example_on_done_skip", tags=["exclusive", "policy"], doc_md=SKIP, **COMMON):
    ExclusiveBashOperator(
        task_id="migrate",
        job_name="example_done_skip",
        run_key="version {{ params.version }}",
        on_done="skip",
        bash_command="echo migrating to {{ params.version }}",
    )

SUCCESS = """
### `on_done="success"`

It is done, and that is all that counts: the task is a success, and what follows it runs. Right where later tasks need
the result and don't care who produced it.
"""

with DAG("example_on_done_success", tags=["exclusive", "policy"], doc_md=SUCCESS, **COMMON):
    migrate = ExclusiveBashOperator(
        task_id="migrate",
        job_name="example_done_success",
        run_key="version {{ params.version }}",
        on_done="success",
        bash_command="echo migrating to {{ params.version }}",
    )
    migrate >> ExclusiveBashOperator(task_id="use_it", bash_command="echo the database has {{ params.version }}")

FAIL = """
### `on_done="fail"`

Being asked for again is a mistake that somebody should look at: the task fails at once, without retries.
"""

with DAG("example_on_done_fail", tags=["exclusive", "policy"], doc_md=FAIL, **COMMON):
    ExclusiveBashOperator(
        task_id="migrate",
        job_name="example_done_fail",
        run_key="version {{ params.version }}",
        on_done="fail",
        bash_command="echo migrating to {{ params.version }}",
    )
