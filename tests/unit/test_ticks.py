"""One due time has one name, whoever asks."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.ticks import run_key_of_dag_run, tick_key

ZONES = st.sampled_from(["UTC", "Asia/Shanghai", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo)
DUE_TIMES = st.integers(-(2**30), 2**32).map(lambda second: datetime.fromtimestamp(second, tz=timezone.utc))
DUE = datetime(2013, 1, 2, tzinfo=timezone.utc)


@given(DUE_TIMES, ZONES)
def test_the_time_zone_does_not_matter(due: datetime, zone: ZoneInfo) -> None:
    assert tick_key(due.astimezone(zone)) == tick_key(due)


@given(DUE_TIMES, DUE_TIMES)
def test_two_due_times_never_share_a_name(one: datetime, other: datetime) -> None:
    assert (tick_key(one) == tick_key(other)) == (one == other)


def test_the_repeated_hour_of_summer_time_is_two_ticks() -> None:
    zone = ZoneInfo("Europe/Berlin")
    early, late = (datetime(2013, 10, 27, 2, 30, tzinfo=zone, fold=fold) for fold in (0, 1))
    assert tick_key(early) == "2013-10-27T00:30:00Z"
    assert tick_key(late) == "2013-10-27T01:30:00Z"


def test_a_due_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"^due=.*: has no time zone; add one"):
        tick_key(datetime(2013, 1, 2))  # noqa: DTZ001


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
@pytest.mark.parametrize("interval_start", [DUE, DUE - timedelta(days=1)], ids=["cron trigger", "data interval"])
def test_both_timetables_name_a_fire_time_alike(run_type: str, interval_start: datetime) -> None:
    run_id = f"{run_type}__{interval_start.isoformat()}"
    assert run_key_of_dag_run(run_type, run_id, data_interval_end=DUE) == "2013-01-02T00:00:00Z"


@pytest.mark.parametrize("run_type", ["manual", "asset_triggered", "operator_triggered"])
def test_a_manual_run_is_a_tick_of_its_own(run_type: str) -> None:
    assert run_key_of_dag_run(run_type, "manual__x", DUE) == "manual__x"


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_partition_is_one_tick_whatever_its_runs_are_called(run_type: str) -> None:
    keys = {run_key_of_dag_run(run_type, f"{run_type}__2013-01-02__{n}", None, "2013-01-02") for n in range(2)}
    assert keys == {"partition 2013-01-02"}


def test_a_run_without_an_interval_goes_by_its_id() -> None:
    assert run_key_of_dag_run("scheduled", "scheduled__x", None) == "scheduled__x"
