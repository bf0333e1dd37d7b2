"""Every name of Airflow that the package uses, once."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowPlugin,
    AirflowSkipException,
    BaseHook,
    BaseOperator,
    BaseSensorOperator,
    Connection,
    Context,
    DecoratedOperator,
    TaskDecorator,
    TaskDeferred,
    conf,
    hookimpl,
    task_decorator_factory,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

__all__ = [
    "AIRFLOW_V_3_0_PLUS",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowPlugin",
    "AirflowSkipException",
    "BaseHook",
    "BaseOperator",
    "BaseSensorOperator",
    "Connection",
    "Context",
    "DecoratedOperator",
    "TaskDecorator",
    "TaskDeferred",
    "conf",
    "hookimpl",
    "task_decorator_factory",
]
