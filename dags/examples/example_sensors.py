"""Waiting for a job: until it could run, and until it has run."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator, JobAdmissionSensor, JobStatusSensor

COMMON = {"schedule": "0 2 * * *", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

STATUS = """
### Wait until a job's tick has succeeded, wherever it ran

`JobStatusSensor` asks the ledger, not Airflow: it doesn't matter whether the backup was made by this deployment,
another one, cron or by hand. It waits for the tick of its own DAG run, so give both DAGs the same schedule, or name
the tick in `run_key`. `mode="reschedule"` frees the worker between two looks.
"""

with DAG("example_status_sensor", tags=["exclusive", "sensor"], doc_md=STATUS, **COMMON):
    backed_up = JobStatusSensor(
        task_id="backed_up",
        job_name="backup_daily",
        mode="reschedule",
        poke_interval=timedelta(seconds=30),
        timeout=timedelta(hours=2),
    )
    backed_up >> ExclusiveBashOperator(task_id="copy_offsite", bash_command="echo copying the backup")

ADMISSION = """
### Wait until a job would be admitted

`JobAdmissionSensor` succeeds when nobody runs the job and its tick isn't done. It takes nothing: somebody may be
quicker than the task behind it, which asks for itself. When the tick is already done there is nothing to wait for:
`on_done` says what then. `deferrable=True` waits in the triggerer, so this DAG isn't for the mini deployment, which
has none: there it would be `mode="reschedule"`, as above.
"""

with DAG("example_admission_sensor", tags=["exclusive", "sensor"], doc_md=ADMISSION, **COMMON):
    free = JobAdmissionSensor(
        task_id="nobody_runs_it",
        job_name="nightly_report",
        on_done="skip",
        deferrable=True,
        poke_interval=timedelta(seconds=10),
        timeout=timedelta(hours=1),
    )
    free >> ExclusiveBashOperator(task_id="report", job_name="nightly_report", bash_command="echo reporting")
