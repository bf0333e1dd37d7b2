"""The same task, guarded and not."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import dag
from airflow.providers.standard.operators.python import PythonOperator

from airflow_exclusive import ExclusivePythonOperator

OPERATORS = {"bench_plain": PythonOperator, "bench_guarded": ExclusivePythonOperator}


def work() -> None:
    """Nothing: what is measured lies around it."""


for name, operator in OPERATORS.items():

    @dag(name, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), catchup=False)
    def one_task() -> None:
        operator(task_id="work", python_callable=work)  # noqa: B023 - the DAG is made right here

    one_task()
