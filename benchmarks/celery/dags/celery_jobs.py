"""A job of some seconds with one effect, guarded and not. Whoever works tells its pid by a file `<dag>.<pid>`."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task

from airflow_exclusive import Lease, exclusive_task

OPTIONS: dict[str, Any] = {"schedule": None, "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}
RETRIES: dict[str, Any] = {"retries": 5, "retry_delay": timedelta(seconds=1)}
EFFECT = "INSERT INTO effects (run_id, dag) VALUES (%(run_id)s, %(dag)s)"


def work(name: str, conf: dict[str, Any]) -> None:
    (Path(conf["folder"]) / f"{name}.{os.getpid()}").touch()
    time.sleep(conf["seconds"])


@dag(**OPTIONS)
def guarded() -> None:
    @exclusive_task(job_name="{{ run_id }}", lock_ttl=6, on_busy="wait", **RETRIES)
    def job(lease: Lease, dag_run: Any = None) -> None:
        connection = PostgresHook("warehouse").get_conn()
        work("guarded", dag_run.conf)
        with lease.transaction(connection) as transaction:
            transaction.execute(EFFECT, {"run_id": dag_run.run_id, "dag": "guarded"})

    job()


@dag(**OPTIONS)
def unguarded() -> None:
    @task(**RETRIES)
    def job(dag_run: Any = None) -> None:
        connection = PostgresHook("warehouse").get_conn()
        work("unguarded", dag_run.conf)
        connection.cursor().execute(EFFECT, {"run_id": dag_run.run_id, "dag": "unguarded"})
        connection.commit()

    job()


@dag(**OPTIONS)
def queued() -> None:
    """Short, and behind the others."""

    @task(**RETRIES)
    def job(dag_run: Any = None) -> None:
        connection = PostgresHook("warehouse").get_conn()
        connection.cursor().execute(EFFECT, {"run_id": dag_run.run_id, "dag": "queued"})
        connection.commit()

    job()


guarded()
unguarded()
queued()
