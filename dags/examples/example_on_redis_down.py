"""The lock server doesn't answer: fail, or let Postgres decide alone."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator

COMMON = {"schedule": "45 2 * * *", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

FAIL = """
### `on_redis_down="fail"`, the default

Both servers must answer before anybody is admitted. While Redis is down the task fails and Airflow tries again, so
give it retries that outlast a restart. Jobs that run already go on: their lease lives in Postgres too.
"""

with DAG("example_on_redis_down_fail", tags=["exclusive", "policy"], doc_md=FAIL, **COMMON):
    ExclusiveBashOperator(
        task_id="work",
        on_redis_down="fail",
        retries=5,
        retry_delay=timedelta(minutes=1),
        bash_command="echo both servers agree",
    )

POSTGRES = """
### `on_redis_down="postgres"`

Postgres is the truth anyway, so it may decide alone: still one runner, once per tick. What is lost is the quick
refusal and the wake-up of those who wait; they look again every few seconds.
"""

with DAG("example_on_redis_down_postgres", tags=["exclusive", "policy"], doc_md=POSTGRES, **COMMON):
    ExclusiveBashOperator(task_id="work", on_redis_down="postgres", bash_command="echo the database is enough")
