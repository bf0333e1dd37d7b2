"""One cron expression, scheduled by two deployments; each execution leaves a line in the warehouse."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook, conf, dag, task

from airflow_exclusive import exclusive_task

JOB = "shared_ticks"
BESIDE = "beside"
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
TICKS = int(os.environ.get("SIDE_BY_SIDE_TICKS", "200"))


@exclusive_task(job_name=JOB, on_busy="wait", retries=3, retry_delay=timedelta(seconds=1))
def work(lease: Any) -> None:
    deployment = conf.get("exclusive", "deployment")
    held_up = Path(os.environ["SIDE_BY_SIDE_FOLDER"], f"hold-{deployment}")
    while held_up.exists():
        time.sleep(0.05)
    leave_a_line(lease, deployment)


def leave_a_line(lease: Any, deployment: str) -> None:
    import psycopg

    warehouse = BaseHook.get_connection("warehouse")
    address = {"host": warehouse.host, "port": warehouse.port, "user": warehouse.login, "dbname": warehouse.schema}
    with psycopg.connect(**address) as connection, lease.transaction(connection) as tx:
        tx.execute("INSERT INTO line VALUES (%s, %s, %s)", [lease.run_key, lease.token, deployment])


@dag(
    schedule="0 * * * *",
    start_date=START,
    end_date=START + timedelta(hours=TICKS - 1),
    catchup=True,
    max_active_runs=1,
)
def shared_ticks() -> None:
    work()


@dag(schedule=None, start_date=START, catchup=False)
def beside() -> None:
    @task
    def do_nothing() -> None: ...

    do_nothing()


shared_ticks()
beside()
