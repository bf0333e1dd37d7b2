"""Jobs that run on exactly one node, once per tick, for Apache Airflow and for cron.

Everything below is imported on first use, so that a DAG file that names us costs milliseconds and loads neither
redis nor psycopg, and so that the library works where Airflow isn't installed.

    from airflow_exclusive import ExclusiveBashOperator, exclusive_task     # in a DAG
    from airflow_exclusive import JobGuard                                  # anywhere
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from airflow_exclusive.airflow.decorators import exclusive_task as exclusive_task
    from airflow_exclusive.airflow.operators import ExclusiveBashOperator as ExclusiveBashOperator
    from airflow_exclusive.airflow.operators import ExclusivePythonOperator as ExclusivePythonOperator
    from airflow_exclusive.airflow.operators import exclusive as exclusive
    from airflow_exclusive.airflow.sensors import JobAdmissionSensor as JobAdmissionSensor
    from airflow_exclusive.airflow.sensors import JobStatusSensor as JobStatusSensor
    from airflow_exclusive.core.admission import Admitted as Admitted
    from airflow_exclusive.core.admission import AlreadyDone as AlreadyDone
    from airflow_exclusive.core.admission import Busy as Busy
    from airflow_exclusive.core.errors import ExclusiveError as ExclusiveError
    from airflow_exclusive.core.errors import LeaseLost as LeaseLost
    from airflow_exclusive.core.lease import Lease as Lease
    from airflow_exclusive.core.lease import current_lease as current_lease
    from airflow_exclusive.core.ticks import tick_key as tick_key
    from airflow_exclusive.guard import JobGuard as JobGuard
    from airflow_exclusive.inherited import inherited_lease as inherited_lease

_HOME_OF = {
    "Admitted": "core.admission",
    "AlreadyDone": "core.admission",
    "Busy": "core.admission",
    "ExclusiveBashOperator": "airflow.operators",
    "ExclusiveError": "core.errors",
    "ExclusivePythonOperator": "airflow.operators",
    "JobAdmissionSensor": "airflow.sensors",
    "JobGuard": "guard",
    "JobStatusSensor": "airflow.sensors",
    "Lease": "core.lease",
    "LeaseLost": "core.errors",
    "current_lease": "core.lease",
    "exclusive": "airflow.operators",
    "exclusive_task": "airflow.decorators",
    "inherited_lease": "inherited",
    "tick_key": "core.ticks",
}

__all__ = sorted(_HOME_OF)  # pyright: ignore


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
