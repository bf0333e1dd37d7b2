"""Who asks, and for which job and tick, as read from a task's context."""

from __future__ import annotations

from datetime import datetime, timezone
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_exclusive.airflow.asker import default_job_name, default_run_key, source_of

MIDNIGHT = datetime(2026, 1, 2, tzinfo=timezone.utc)


class PlainEnum(Enum):
    """As Airflow's enum of run types, but its str() isn't its value."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"


def task_instance(**changes: Any) -> SimpleNamespace:
    fields = {"dag_id": "flights", "task_id": "load", "run_id": "scheduled__x", "map_index": -1}
    return SimpleNamespace(**{**fields, "try_number": 1, "max_tries": 0, **changes})


def context(retries: int = 0, run_type: object = "scheduled", end: datetime | None = MIDNIGHT, **ti: Any) -> Any:
    run = SimpleNamespace(run_type=run_type, run_id="the run's id", data_interval_end=end)
    return {"ti": task_instance(**ti), "task": SimpleNamespace(retries=retries), "dag_run": run}


@pytest.mark.parametrize(
    ("map_index", "name"),
    [(-1, "flights.load"), (None, "flights.load"), (0, "flights.load[0]"), (12, "flights.load[12]")],
)
def test_a_job_is_called_after_its_task_and_each_mapped_instance_is_one(map_index: int | None, name: str) -> None:
    assert default_job_name(context(map_index=map_index)) == name


@pytest.mark.parametrize("run_type", ["scheduled", "backfill", PlainEnum.SCHEDULED])
def test_a_run_that_a_timetable_made_goes_by_its_fire_time(run_type: object) -> None:
    assert default_run_key(context(run_type=run_type)) == "2026-01-02T00:00:00Z"


@pytest.mark.parametrize("run_type", ["manual", "asset_triggered", "dataset_triggered", PlainEnum.MANUAL])
def test_any_other_run_is_a_tick_of_its_own(run_type: object) -> None:
    assert default_run_key(context(run_type=run_type)) == "the run's id"


def test_a_run_without_a_data_interval_is_a_tick_of_its_own() -> None:
    assert default_run_key(context(run_type="scheduled", end=None)) == "the run's id"
    without = context(run_type="manual")
    del without["dag_run"].data_interval_end
    assert default_run_key(without) == "the run's id"


def test_airflows_own_run_types_are_understood() -> None:
    from airflow.utils.types import DagRunType

    told = {kind.value: default_run_key(context(run_type=kind)) for kind in DagRunType}
    by_time = {name for name, key in told.items() if key == "2026-01-02T00:00:00Z"}
    assert by_time == {"scheduled", "backfill"} & told.keys()


def test_the_source_is_the_task_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EXCLUSIVE__DEPLOYMENT", "blue")
    source = source_of(context(map_index=3, try_number=2))
    assert str(source) == "blue: flights.load[3] scheduled__x try 2"
    assert source.is_task_instance


@pytest.mark.parametrize(
    ("retries", "max_tries", "cleared"), [(0, 0, 0), (2, 2, 0), (2, 5, 3), (0, 1, 1), (3, 2, 0), (0, None, 0)]
)
def test_tries_beyond_the_retries_are_those_that_a_person_cleared(
    retries: int, max_tries: int | None, cleared: int
) -> None:
    assert source_of(context(retries=retries, max_tries=max_tries)).cleared_tries == cleared


def test_a_deployment_without_a_name_goes_by_the_address_of_its_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS

    section = "API" if AIRFLOW_V_3_0_PLUS else "WEBSERVER"
    monkeypatch.setenv(f"AIRFLOW__{section}__BASE_URL", "https://blue.example:8443/airflow")
    assert source_of(context()).deployment == "blue.example:8443"
