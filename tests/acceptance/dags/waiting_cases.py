"""DAGs of those who wait while another run has the job, away from any worker."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import dag

from airflow_exclusive import exclusive_task
from tests.support.meeting import meet

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
JOB = "{{ dag_run.conf['job'] }}"


@exclusive_task(job_name=JOB, on_busy="wait", lock_ttl=10, retries=3, retry_delay=timedelta(seconds=1))
def work(folder: str, lease: Any) -> str:
    return meet(folder, lease)


@dag(schedule=None, start_date=START, catchup=False)
def standby_defer() -> None:
    work.override(wait_mode="defer")("{{ dag_run.conf['folder'] }}")


@dag(schedule=None, start_date=START, catchup=False)
def standby_reschedule() -> None:
    work.override(wait_mode="reschedule")("{{ dag_run.conf['folder'] }}")


@dag(schedule=None, start_date=START, catchup=False)
def one_tick() -> None:
    work.override(wait_mode="defer", run_key="the tick of {{ dag_run.conf['job'] }}")("{{ dag_run.conf['folder'] }}")


standby_defer()
standby_reschedule()
one_tick()
