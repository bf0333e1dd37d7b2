"""What a move from one deployment to another meets: ticks whose tasks go on in one or in both, and runs by hand."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

from airflow_exclusive import exclusive_task

SCHEDULED, BY_HAND = "migrated", "migrated_by_hand"
LOADED, PUBLISHED = "migrated_load", "migrated_publish"
"""Jobs; that of the DAG of runs by hand has its name."""
THROUGH = "through"
"""The file with the last tick that may come to its end."""

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
TICKS = [(START + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ") for hour in (1, 2, 3)]
STANDBY: dict[str, Any] = {"on_busy": "wait", "lock_ttl": 15, "wait_interval": 2, "retries": 3}


@exclusive_task(job_name=LOADED, **STANDBY)
def load(lease: Any) -> None:
    through = Path(os.environ["SIDE_BY_SIDE_FOLDER"], THROUGH)
    while lease.run_key > through.read_text():
        time.sleep(0.05)


@exclusive_task(job_name=PUBLISHED, on_done="success", **STANDBY)
def publish() -> None: ...


@task
def after_load() -> None: ...


@task
def after_publish() -> None: ...


@dag(
    SCHEDULED,
    # the same ticks in both Airflows, where a plain cron expression has one more at either end
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=START,
    end_date=START + timedelta(hours=len(TICKS) - 1),
    catchup=True,
    max_active_runs=1,
)
def scheduled() -> None:
    load() >> after_load()
    publish() >> after_publish()


@exclusive_task(job_name=BY_HAND, **STANDBY)
def work() -> None: ...


@dag(BY_HAND, schedule=None, start_date=START, catchup=False)
def by_hand() -> None:
    work()


scheduled()
by_hand()
