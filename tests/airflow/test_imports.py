"""DAG files are parsed every few seconds: what they import of us must be light."""

from __future__ import annotations

import pytest

from tests.airflow.interpreter import told_by

IMPORTED = """
import json, sys
from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseSensorOperator, task
before = set(sys.modules)
import airflow_exclusive
names = [name for name in airflow_exclusive.__all__ if name not in ("JobGuard", "inherited_lease")]
for name in names:
    getattr(airflow_exclusive, name)
print(json.dumps({"names": names, "new": sorted(set(sys.modules) - before)}))
"""
HEAVY = {"redis", "psycopg", "psycopg2", "psycopg_pool", "sqlalchemy", "fastapi", "flask", "psutil", "click", "rich"}
HEAVY |= {"croniter", "multiprocessing", "pandas", "numpy"}


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    told: dict[str, list[str]] = told_by(IMPORTED)
    return told


def test_what_dags_import_of_us_loads_no_driver_and_no_server(imported: dict[str, list[str]]) -> None:
    assert {"ExclusiveBashOperator", "exclusive_task", "JobStatusSensor", "exclusive"} <= set(imported["names"])
    assert {name.partition(".")[0] for name in imported["new"]} & HEAVY == set()


def test_nor_does_it_load_our_stores_and_keeper(imported: dict[str, list[str]]) -> None:
    ours = {name for name in imported["new"] if name.startswith("airflow_exclusive.")}
    assert "airflow_exclusive.airflow.operators" in ours
    allowed = {"airflow_exclusive.stores.postgres.statements", "airflow_exclusive.stores.postgres"}
    assert {name for name in ours - allowed if name.startswith("airflow_exclusive.stores.")} == set()
    assert {name for name in ours if name.startswith(("airflow_exclusive.keeper", "airflow_exclusive.cli"))} == set()


def test_the_library_needs_no_airflow() -> None:
    script = """
import json, sys
from airflow_exclusive import JobGuard, LeaseLost, current_lease, inherited_lease
JobGuard(redis="redis://h", postgres="postgresql://h").close()
print(json.dumps([name for name in sys.modules if name.partition(".")[0] == "airflow"]))
"""
    assert told_by(script) == []


def test_a_name_that_does_not_exist_is_said_to_be_missing() -> None:
    import airflow_exclusive

    with pytest.raises(AttributeError, match="no attribute 'ExclusiveBashOperater'"):
        airflow_exclusive.ExclusiveBashOperater  # noqa: B018
