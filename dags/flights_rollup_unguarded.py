"""Flights by day as `flights_rollup` counts them, without anything that keeps a day from being counted twice."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG, task

from include import flights, warehouse

DOC = """
### The same without us, for contrast

`SET flights = flights + n` by a plain task. As long as one scheduler runs it, nothing is killed and nobody retries, the
sums in `flights_by_day_unguarded` are right. A second node with the same DAG or cron line doubles them, and so may a
killed worker: compare with `flights_by_day`.
"""

with DAG(
    "flights_rollup_unguarded",
    schedule="@daily",
    start_date=datetime(2013, 1, 1, tzinfo=timezone.utc),
    end_date=datetime(2014, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    default_args={"retries": 4, "retry_delay": timedelta(seconds=3)},
    tags=["flights", "unguarded"],
    doc_md=DOC,
):

    @task
    def roll_up(data_interval_end: datetime | None = None) -> int:
        if data_interval_end is None:
            raise ValueError("which day? Trigger this run with a logical date")
        with warehouse.from_airflow() as conn:
            return flights.roll_up_unguarded(conn, flights.day_before(data_interval_end))

    roll_up()
