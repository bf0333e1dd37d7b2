"""What Airflow loads: the listener that confirms successes."""

from __future__ import annotations

from airflow_exclusive.airflow import listener
from airflow_exclusive.airflow.compat import AirflowPlugin


class AirflowExclusivePlugin(AirflowPlugin):
    name = "airflow_exclusive"
    listeners = [listener]  # noqa: RUF012
