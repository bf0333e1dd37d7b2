"""The same fire time is the same tick, whichever timetable it comes from."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.timetables.base import TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow.timetables.trigger import CronTriggerTimetable
from pendulum import DateTime

from airflow_exclusive.cli.run import latest_tick
from airflow_exclusive.core.ticks import run_key_of_dag_run, tick_key
from tests.airflow.compat import timetable_of

DAYS = 5
DAILY = {
    "cron": "0 0 * * *",
    "preset": "@daily",
    "timedelta": timedelta(days=1),
    "trigger": CronTriggerTimetable("0 0 * * *", timezone="UTC"),
    "trigger with interval": CronTriggerTimetable("0 0 * * *", timezone="UTC", interval=timedelta(days=1)),
    "interval": CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
}
BERLIN = {
    "trigger": CronTriggerTimetable("30 2 * * *", timezone="Europe/Berlin"),
    "interval": CronDataIntervalTimetable("30 2 * * *", timezone="Europe/Berlin"),
}


def keys_by_fire_time(schedule: Any, start: datetime) -> dict[datetime, str]:
    """run_key of each of the first scheduled runs from `start` on, by the time at which it is due."""
    timetable = timetable_of(schedule)
    restriction = TimeRestriction(earliest=start, latest=None, catchup=True)
    keys, last = {}, None
    for _ in range(DAYS):
        info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        assert info is not None
        last = info.data_interval
        assert last is not None
        keys[info.run_after] = run_key_of_dag_run("scheduled", f"scheduled__{info.logical_date}", last.end)
    return keys


@pytest.mark.parametrize("name", DAILY)
def test_a_daily_run_is_the_tick_of_its_fire_time(name: str) -> None:
    keys = keys_by_fire_time(DAILY[name], datetime(2026, 1, 1, tzinfo=timezone.utc))
    assert list(keys.values()) == [due.strftime("%Y-%m-%dT00:00:00Z") for due in keys]
    assert {"2026-01-02T00:00:00Z", "2026-01-05T00:00:00Z"} <= set(keys.values())


@pytest.mark.parametrize(("month", "day"), [(3, 27), (10, 23)])
def test_so_it_is_when_clocks_are_changed(month: int, day: int) -> None:
    start = datetime(2026, month, day, tzinfo=timezone.utc)
    trigger, interval = (keys_by_fire_time(schedule, start) for schedule in BERLIN.values())
    common = trigger.keys() & interval.keys()
    assert len(common) >= DAYS - 1
    assert {due: trigger[due] for due in common} == {due: interval[due] for due in common}
    assert len(set(trigger.values())) == DAYS


def test_logical_dates_would_not_have_done() -> None:
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    restriction = TimeRestriction(earliest=start, latest=None, catchup=True)
    by_fire_time: dict[datetime, set[datetime]] = {}
    for name in ("trigger", "interval"):
        last = None
        for _ in range(DAYS):
            timetable = timetable_of(DAILY[name])
            info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
            assert info is not None
            last = info.data_interval
            by_fire_time.setdefault(info.run_after, set()).add(info.logical_date)  # type: ignore[arg-type]
    assert max(len(dates) for dates in by_fire_time.values()) == 2


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 3 * * *", "30 1 * * *", "30 * * * *"])
@pytest.mark.parametrize("changes", ["2026-03-28", "2026-10-24", "2026-03-07", "2026-10-31"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
def test_the_command_line_names_ticks_alike_when_clocks_change(zone: str, changes: str, expression: str) -> None:
    begin = datetime.fromisoformat(f"{changes}T12:00:00+00:00")
    end = begin + timedelta(days=2)
    timetable, due = CronTriggerTimetable(expression, timezone=zone), DateTime.instance(begin)
    by_airflow = set()
    while (due := timetable._get_next(due)) <= end:
        by_airflow.add(tick_key(due))
    asked = [begin + n * timedelta(minutes=5) for n in range(48 * 12 + 1)]
    by_us = {key for now in asked if (key := latest_tick(expression, zone, now)) > tick_key(begin)}
    assert by_us == by_airflow
