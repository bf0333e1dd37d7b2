"""One job, scheduled in four ways for the same fire times; each attempt leaves a line in the warehouse."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook, dag
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow.timetables.trigger import CronTriggerTimetable

from airflow_exclusive import exclusive_task

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SCHEDULES: dict[str, Any] = {
    "ticks_by_cron": "0 0 * * *",
    "ticks_by_timedelta": timedelta(days=1),
    "ticks_by_trigger": CronTriggerTimetable("0 0 * * *", timezone="UTC"),
    "ticks_by_interval": CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
}


def leave_a_line(lease: Any, dag_id: str) -> None:
    import psycopg

    conn = BaseHook.get_connection("warehouse")
    with psycopg.connect(host=conn.host, port=conn.port, user=conn.login, dbname=conn.schema) as connection:
        connection.execute("INSERT INTO ticks (run_key, dag_id) VALUES (%s, %s)", [lease.run_key, dag_id])


for name, schedule in SCHEDULES.items():

    @dag(name, schedule=schedule, start_date=START, catchup=False, max_active_runs=2)
    def ticks() -> None:
        @exclusive_task(job_name="ticks", on_busy="wait", lock_ttl=10, retries=2, retry_delay=timedelta(seconds=1))
        def run_it(dag_id: str, lease: Any) -> None:
            leave_a_line(lease, dag_id)

        run_it("{{ dag.dag_id }}")

    ticks()
