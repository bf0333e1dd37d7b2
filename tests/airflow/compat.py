"""What these tests need of Airflow that has another name in 2.11 than in 3.x."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from airflow.providers.common.compat.sdk import DAG, AirflowException
from airflow.timetables.base import Timetable

try:
    from airflow.serialization.serialized_objects import DagSerialization as Serialization
except ImportError:
    from airflow.serialization.serialized_objects import (  # type: ignore[assignment]
        SerializedDAG as Serialization,
    )

try:
    from airflow.serialization.encoders import coerce_to_core_timetable
except ImportError:

    def coerce_to_core_timetable(timetable: Any) -> Any:  # type: ignore[no-redef, misc]
        return timetable


_START = datetime(2026, 1, 1, tzinfo=timezone.utc)

UnknownArgument = (TypeError, AirflowException)
"""What an operator raises that is given an argument it hasn't, or lacks one: the latter in 2.11."""


def is_mapped(task: Any) -> bool:
    """Of a task as the scheduler sees it."""
    return bool(getattr(task, "is_mapped", False) or getattr(task, "_is_mapped", False))


def serialized(dag: DAG) -> dict[str, Any]:
    """What the metadata database is given of a DAG."""
    data: dict[str, Any] = Serialization.to_dict(dag)
    return data


def deserialized(data: dict[str, Any]) -> Any:
    """What the scheduler makes of it."""
    return Serialization.from_dict(data)


def timetable_of(schedule: Any) -> Timetable:
    """The timetable by which the scheduler goes for a DAG with this schedule."""
    timetable: Timetable = coerce_to_core_timetable(DAG("any", schedule=schedule, start_date=_START).timetable)
    return timetable
