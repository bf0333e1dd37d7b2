"""One cron expression, scheduled by two deployments; each execution leaves a line in the warehouse.

What says that it began is no transaction of a lease, and no index would refuse a second one: what ran twice is seen.
"""

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
    with warehouse() as connection:
        connection.execute("INSERT INTO begun VALUES (%s, %s, %s)", [lease.run_key, lease.token, deployment])
    held_up = Path(os.environ["SIDE_BY_SIDE_FOLDER"], f"hold-{deployment}")
    while held_up.exists():
        time.sleep(0.05)
    with warehouse() as connection, lease.transaction(connection) as tx:
        tx.execute("INSERT INTO line VALUES (%s, %s, %s)", [lease.run_key, lease.token, deployment])


def warehouse() -> Any:
    import psycopg

    known = BaseHook.get_connection("warehouse")
    return psycopg.connect(host=known.host, port=known.port, user=known.login, dbname=known.schema)


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
