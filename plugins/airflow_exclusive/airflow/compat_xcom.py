"""The names of Airflow that only a task's result needs: DAG files that are parsed don't load them."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS

CHOICE_KEY = "skipmixin_key"
"""The XCom by which the scheduler knows which of the tasks that follow an operator has skipped."""


def xcom_of(ti_key: Any, key: str) -> Any:
    """An XCom of another task instance, for a process that has Airflow 2's database."""
    return import_module("airflow.models.xcom").XCom.get_value(key=key, ti_key=ti_key)


def as_text(value: Any) -> str:
    """As Airflow writes an XCom; raises whatever it raises for what it can't write."""
    if AIRFLOW_V_3_0_PLUS:
        return json.dumps(_serde().serialize(value))
    return json.dumps(value, cls=import_module("airflow.utils.json").XComEncoder)


def from_text(text: str) -> Any:
    """As Airflow reads an XCom."""
    if AIRFLOW_V_3_0_PLUS:
        return _serde().deserialize(json.loads(text))
    return json.loads(text, cls=import_module("airflow.utils.json").XComDecoder)


def choice_of(task: Any, ti: Any) -> Any:
    """The XCom `CHOICE_KEY` of a task that has just run, where it is all that says what the task skips.

    Airflow 3 is told by an exception as well, unless the task is mapped.
    """
    chooses = getattr(task, "inherits_from_skipmixin", False)
    if not chooses or (AIRFLOW_V_3_0_PLUS and ti.map_index < 0):
        return None
    return ti.xcom_pull(task_ids=ti.task_id, key=CHOICE_KEY, map_indexes=ti.map_index)


def _serde() -> Any:
    try:
        return import_module("airflow.sdk.serde")
    except ModuleNotFoundError:  # where it was before
        return import_module("airflow.serialization.serde")
