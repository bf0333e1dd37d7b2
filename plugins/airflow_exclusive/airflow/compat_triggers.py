"""The names of Airflow that only a trigger needs: DAG files that are parsed don't load them."""

from __future__ import annotations

from airflow.providers.common.compat.connection import get_async_connection
from airflow.triggers.base import BaseTrigger, TriggerEvent

__all__ = ["BaseTrigger", "TriggerEvent", "get_async_connection"]
