"""Flights by day, each day counted exactly once."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import Lease, exclusive_task
from include import flights, warehouse

DOC = """
### Exactly once, for a statement that isn't idempotent

Each tick adds the flights of the day before it to `flights_by_day`, by `SET flights = flights + n`: run twice, it would
count the day twice. Three things keep that from happening, whatever dies and whoever else wants the tick:

- the lease: one runner for the job `flights_rollup`, here and on every other node;
- the ledger: a tick that has succeeded is done, so latecomers skip;
- `lease.transaction(conn, step=…)`: the update, a mark for the step and the runner's token are one transaction. A crash
  after the commit leaves the mark, so the retry doesn't add again; a runner that was frozen and replaced is refused.

Fill the table for January 2013 (run `flights_load` first):

    airflow backfill create --dag-id flights_rollup --from-date 2013-01-02 --to-date 2013-02-01

- `on_busy="wait"`: a run that finds another tick being counted waits for its turn instead of skipping its own.
- `lock_ttl=6` is short, so that takeover is quick to watch. The default, 30 s, is better for most jobs.
- A retry never competes with its own task's earlier try: it waits for it, and is a success if that one succeeded.

A run that is triggered by hand is a tick of its own and adds its day again: that is what was asked for.
`flights_rollup_unguarded` is the same without the three.
"""

with DAG(
    "flights_rollup",
    schedule="@daily",
    start_date=datetime(2013, 1, 1, tzinfo=timezone.utc),
    end_date=datetime(2014, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    default_args={"retries": 4, "retry_delay": timedelta(seconds=3)},
    tags=["exclusive", "flights"],
    doc_md=DOC,
):

    @exclusive_task(job_name="flights_rollup", lock_ttl=6, on_busy="wait")
    def roll_up(lease: Lease, data_interval_end: datetime | None = None) -> int:
        if data_interval_end is None:
            raise ValueError("which day? Trigger this run with a logical date")
        with warehouse.from_airflow() as conn:
            return flights.roll_up(lease, conn, flights.day_before(data_interval_end))

    roll_up()
