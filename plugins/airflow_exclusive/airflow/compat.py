"""Every name of Airflow that the package uses, once; those that only a trigger needs are in `compat_triggers.py`."""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from typing import Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowPlugin,
    AirflowSkipException,
    BaseHook,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    Connection,
    Context,
    DecoratedOperator,
    ObjectStoragePath,
    TaskDecorator,
    TaskDeferred,
    conf,
    hookimpl,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

# The common names for them came later than the oldest provider that we work with.
_exceptions = import_module("airflow.sdk.exceptions" if AIRFLOW_V_3_0_PLUS else "airflow.exceptions")
AirflowRescheduleException: type[Exception] = _exceptions.AirflowRescheduleException
AirflowSensorTimeout: type[Exception] = _exceptions.AirflowSensorTimeout
AirflowTaskTimeout: type[BaseException] = _exceptions.AirflowTaskTimeout

DEFERRAL_TIMEOUT = "Trigger/execution timeout"
"""What Airflow 2 says of a deferral that lasted too long; Airflow 3 has made a sensor's own error of it."""

# By these a task of Airflow 3 ends as a success; in Airflow 2 its operator does what they ask for, and returns.
_SUCCESSES = {name: getattr(_exceptions, name, None) for name in ("DownstreamTasksSkipped", "DagRunTriggerException")}
SKIPS_WHAT_FOLLOWS, TRIGGERS_ANOTHER_RUN = ((kind,) if kind else () for kind in _SUCCESSES.values())

# By this a task of Airflow 3.3 parks itself until a person has answered.
ASKS_A_PERSON = (_asking,) if (_asking := getattr(_exceptions, "TaskAwaitingInput", None)) else ()

_Termination: Any = BaseException if AIRFLOW_V_3_0_PLUS else _exceptions.AirflowTaskTerminated


class TaskStopped(_Termination):  # type: ignore[misc]
    """The task is told to stop; it may be tried again.

    No `Exception`: code that asks elsewhere when it was given none, as Airflow's look-ups of variables and connections
    do, would take it for a failure of the first one asked, and go on.
    """


# What `@task` makes of a function; the public factory for it takes no class of one's own.
TaskDecoratorBase: Any = import_module(
    "airflow.sdk.bases.decorator" if AIRFLOW_V_3_0_PLUS else "airflow.decorators.base"
)._TaskDecorator

# What `partial()` gives.
OperatorPartial: Any = import_module(
    "airflow.sdk.definitions.mappedoperator" if AIRFLOW_V_3_0_PLUS else "airflow.models.mappedoperator"
).OperatorPartial

__all__ = [
    "AIRFLOW_V_3_0_PLUS",
    "ASKS_A_PERSON",
    "DEFERRAL_TIMEOUT",
    "SKIPS_WHAT_FOLLOWS",
    "TRIGGERS_ANOTHER_RUN",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowPlugin",
    "AirflowRescheduleException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "Connection",
    "Context",
    "DecoratedOperator",
    "ObjectStoragePath",
    "OperatorPartial",
    "TaskDecorator",
    "TaskDecoratorBase",
    "TaskDeferred",
    "TaskStopped",
    "conf",
    "first_rescheduled_at",
    "hookimpl",
    "is_shown_as_success",
    "reschedule_deps",
]


def first_rescheduled_at(context: Context) -> datetime | None:
    """When this try was first sent away to come back later; None where it wasn't."""
    ti: Any = context["ti"]
    if AIRFLOW_V_3_0_PLUS:
        first: datetime | None = ti.get_first_reschedule_date(context)
    else:
        ask = import_module("airflow.sensors.base")._orig_start_date
        first = ask(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number)
    return first


def is_shown_as_success(task_instance: Any) -> bool:
    """Whether Airflow has it as a success. Airflow 3 may tell listeners of one whose message got lost on its way."""
    if not AIRFLOW_V_3_0_PLUS:
        return True
    states = task_instance.get_task_states(
        task_instance.dag_id,
        map_index=task_instance.map_index,
        task_ids=[task_instance.task_id],
        run_ids=[task_instance.run_id],
    )
    return any("success" in of_run.values() for of_run in states.values())


def reschedule_deps() -> frozenset[Any]:
    """What makes the scheduler wait until a task is to come back: Airflow 2 asks only tasks that say so."""
    if AIRFLOW_V_3_0_PLUS:
        return frozenset()
    return frozenset({import_module("airflow.ti_deps.deps.ready_to_reschedule").ReadyToRescheduleDep()})
