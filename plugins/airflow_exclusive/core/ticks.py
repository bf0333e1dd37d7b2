"""The name of a tick: the same for the same due time, whichever timetable, deployment or Airflow version asks."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow_exclusive.core.errors import InvalidSetting

_SCHEDULED = {"scheduled", "backfill"}


def tick_key(due: datetime) -> str:
    """The run_key of a due time: ISO 8601 in UTC.

    >>> tick_key(datetime(2013, 1, 2, tzinfo=timezone.utc))
    '2013-01-02T00:00:00Z'
    """
    if due.tzinfo is None:
        raise InvalidSetting("due", due, "has no time zone; add one, e.g. datetime(…, tzinfo=timezone.utc)")
    return due.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def run_key_of_dag_run(
    run_type: str, run_id: str, data_interval_end: datetime | None, partition_key: str | None = None
) -> str:
    """The run_key of an Airflow DAG run.

    Scheduled and backfill runs go by their fire time, which is the end of the data interval for every timetable of
    both Airflow majors (`logical_date` is its start for some and its end for others). Those of a timetable of
    partitions have no interval and go by the partition. Any other run is its own tick.
    """
    if str(run_type) not in _SCHEDULED:
        return run_id
    if data_interval_end is not None:
        return tick_key(data_interval_end)
    return f"partition {partition_key}" if partition_key else run_id
