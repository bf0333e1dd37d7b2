"""A nightly backup, on exactly one node."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

import include
from airflow_exclusive import ExclusiveBashOperator

DOC = """
### A backup that runs on exactly one node

Start with this one. The DAG may be scheduled on any number of deployments, and cron may run the same command on any
number of machines: whoever comes first gets the job `backup_daily`, and the others are told that it is taken
(`on_busy`) or done (`on_done`); both mean *skipped* unless you say otherwise.

- `job_name` is what must have one executor. It is the same word everywhere: here, in another DAG, on the command line.
- The tick is the fire time, e.g. `2026-01-02T02:00:00Z`. A node that is three seconds late finds it done, and skips.
- `lock_ttl` is how long everybody believes in a runner that says nothing. The lease is renewed while `pg_dump` works,
  so it need not be longer than the job: with 90 s a dead node is replaced within 90 s.

The same from cron, on a machine without Airflow:

    0 2 * * *  airflow-exclusive run backup_daily --cron '0 2 * * *' --ttl 90 -- sh include/backup.sh
"""

with DAG(
    "backup_daily",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    template_searchpath=str(include.FOLDER),
    tags=["exclusive", "operator"],
    doc_md=DOC,
):
    ExclusiveBashOperator(
        task_id="backup",
        job_name="backup_daily",
        lock_ttl=90,
        bash_command="backup.sh",
        env={"BACKUP_SOURCE": "{{ conn.warehouse.get_uri() }}"},
        append_env=True,
    )
