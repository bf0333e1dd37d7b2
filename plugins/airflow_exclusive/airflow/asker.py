"""Who asks, for what: read from a task's context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_exclusive.airflow import config
from airflow_exclusive.airflow.compat import Context
from airflow_exclusive.core.ticks import run_key_of_dag_run

if TYPE_CHECKING:
    from airflow_exclusive.core.job import Source


def source_of(context: Context) -> Source:
    """The task instance that asks.

    After a person has cleared a task instance, Airflow allows it as many tries as it had used up, plus its retries:
    so the difference tells how many tries lie before the last clear.
    """
    from airflow_exclusive.core.job import Source

    ti: Any = context["ti"]
    retries = int(getattr(context["task"], "retries", 0) or 0)
    return Source(
        deployment=config.deployment(),
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=ti.map_index if ti.map_index is not None else -1,
        try_number=ti.try_number,
        cleared_tries=max(0, int(ti.max_tries or 0) - retries),
    )


def default_job_name(context: Context) -> str:
    """`<dag_id>.<task_id>`, and for a mapped task `[<map_index>]`, so that its instances don't shut each other out."""
    ti: Any = context["ti"]
    mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    return f"{ti.dag_id}.{ti.task_id}{mapped}"


def default_run_key(context: Context) -> str:
    """The tick of the DAG run that the context belongs to."""
    run: Any = context["dag_run"]
    run_type = str(getattr(run.run_type, "value", run.run_type))  # an enum on 3.x, whose text isn't its value
    interval_end, partition = (getattr(run, name, None) for name in ("data_interval_end", "partition_key"))
    return run_key_of_dag_run(run_type, run.run_id, interval_end, partition)
