"""January 2013, tick by tick: a tick fires when its day is over."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow_exclusive.core.ticks import tick_key

JOB = "flights_rollup"
GUARDED_DAG = "flights_rollup"
UNGUARDED_DAG = "flights_rollup_unguarded"

FIRST = datetime(2013, 1, 2, tzinfo=timezone.utc)
LAST = datetime(2013, 2, 1, tzinfo=timezone.utc)
TICKS = [tick_key(FIRST + timedelta(days=day)) for day in range((LAST - FIRST).days + 1)]
FLIGHTS = 27_004
