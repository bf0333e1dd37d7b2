"""The work that every deployment is given, guarded and not."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook, BaseSensorOperator, dag
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.triggers.file import FileTrigger

from airflow_exclusive import ExclusivePythonOperator

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
OPERATORS: dict[str, Any] = {"plain": PythonOperator, "guarded": ExclusivePythonOperator}
EVERY = timedelta(seconds=6)
LONG = 5.0
VICTIM = 12.0


def nothing() -> None:
    """What is measured lies around it."""


def long() -> None:
    time.sleep(LONG)


def victim(folder: str, kind: str, lease: Any = None) -> None:
    """Note who works, work for a while, leave a line in the warehouse."""
    import psycopg

    note = Path(folder, f"{time.time()}.began")
    note.with_suffix(".new").write_text(json.dumps({"pid": os.getpid(), "supervisor": os.getppid()}))
    note.with_suffix(".new").rename(note)
    time.sleep(VICTIM)
    warehouse = BaseHook.get_connection("warehouse")
    address = {"host": warehouse.host, "port": warehouse.port, "user": warehouse.login, "dbname": warehouse.schema}
    statement, values = "INSERT INTO comparison_effect VALUES (%s, %s)", [folder, kind]
    with psycopg.connect(**address) as connection:
        if lease is None:
            connection.execute(statement, values)
            return
        with lease.transaction(connection) as tx:
            tx.execute(statement, values)


def fail() -> None:
    raise RuntimeError("as it is meant to")


def note_failure(context: Any) -> None:
    """What would send a message: of the task, in its process; of the run, in the DAG processor."""
    source = "run" if str(context.get("reason", "")).startswith("task_failure") else "task"
    Path(context["dag_run"].conf["folder"], source).touch()


class FileSensor(BaseSensorOperator):
    """Waits for a file, in the worker or by being rescheduled."""

    def poke(self, context: Any) -> bool:
        return Path(context["dag_run"].conf["file"]).exists()


PLAIN: dict[str, Any] = {"schedule": None, "start_date": START, "catchup": False}


class DeferredFileSensor(FileSensor):
    """The same in the triggerer."""

    def execute(self, context: Any) -> None:
        file = context["dag_run"].conf["file"]
        self.defer(trigger=FileTrigger(filepath=file, poke_interval=2), method_name="resume")

    def resume(self, context: Any, event: Any = None) -> None: ...


SENSORS: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke", "poke_interval": 2},
    "reschedule": {"mode": "reschedule", "poke_interval": 2},
    "defer": {},
}
SAME_TICK = "{{ dag_run.conf.get('tick', run_id) }}"

for kind, operator in OPERATORS.items():
    once = {"run_key": SAME_TICK} if kind == "guarded" else {}

    @dag(f"one_{kind}", **PLAIN)
    def one() -> None:
        operator(task_id="work", python_callable=nothing)  # noqa: B023 - the DAG is made right here

    @dag(f"short_{kind}", **PLAIN, max_active_tasks=64)
    def short() -> None:
        for n in range(50):
            operator(task_id=f"work_{n}", python_callable=nothing, **once)  # noqa: B023

    @dag(f"long_{kind}", **PLAIN)
    def lasting() -> None:
        for n in range(8):
            operator(task_id=f"work_{n}", python_callable=long, **once)  # noqa: B023

    @dag(f"due_{kind}", schedule=EVERY, start_date=START, catchup=False, max_active_runs=4)
    def due() -> None:
        operator(task_id="work", python_callable=nothing)  # noqa: B023

    @dag(f"victim_{kind}", **PLAIN)
    def killed() -> None:
        operator(  # noqa: B023
            task_id="work",
            python_callable=victim,
            op_args=["{{ dag_run.conf['folder'] }}", kind],  # noqa: B023
            retries=3,
            retry_delay=timedelta(seconds=1),
            **(once and {**once, "on_busy": "wait", "on_done": "success"}),  # noqa: B023
        )

    @dag(f"alert_{kind}", **PLAIN, on_failure_callback=note_failure)
    def alert() -> None:
        operator(task_id="work", python_callable=fail, on_failure_callback=note_failure)  # noqa: B023

    one()
    short()
    lasting()
    due()
    killed()
    alert()

for mode, options in SENSORS.items():

    @dag(f"waits_sensor_{mode}", **PLAIN)
    def waits_for_file() -> None:
        (FileSensor if options else DeferredFileSensor)(task_id="work", **options)  # noqa: B023

    waits_for_file()

for wait_mode in ("worker", "reschedule", "defer"):

    @dag(f"waits_guarded_{wait_mode}", **PLAIN)
    def waits_for_job() -> None:
        ExclusivePythonOperator(
            task_id="work",
            python_callable=nothing,
            job_name="comparison held",
            on_busy="wait",
            wait_mode=wait_mode,  # noqa: B023
            wait_interval=2,
        )

    waits_for_job()
