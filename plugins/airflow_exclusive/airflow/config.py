"""The section `[exclusive]` of Airflow's configuration, and what of the rest concerns us, read when it is needed."""

from __future__ import annotations

from urllib.parse import urlsplit

from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS, conf
from airflow_exclusive.core.names import UNNAMED
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA

SECTION = "exclusive"


def redis_conn_id() -> str:
    return _get("redis_conn_id", "exclusive_redis")


def postgres_conn_id() -> str:
    return _get("postgres_conn_id", "exclusive_postgres")


def schema() -> str:
    return _get("schema", DEFAULT_SCHEMA)


def deployment() -> str:
    """The name of this deployment: tells its task instances from those of another that shares the stores.

    Left out it is the address of the UI, which is all that a worker of either Airflow major knows of its deployment.
    """
    named = _get("deployment", "")
    if named:
        return named
    address = conf.get("api" if AIRFLOW_V_3_0_PLUS else "webserver", "base_url", fallback="")
    return urlsplit(address).netloc or UNNAMED


def default_deferrable() -> bool:
    """Whether operators that can are to wait in the triggerer."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def is_sequential(executor: str | None = None) -> bool:
    """Whether a task that runs stops the scheduler (Airflow 2 only), with this executor or the configured one."""
    executors = str((conf.get("core", "executor", fallback="") if executor is None else executor) or "")
    return executors.partition(",")[0].rpartition(".")[2].rpartition(":")[2].strip() == "SequentialExecutor"


def shortest_absence() -> float:
    """Seconds for which a task that has left its worker has to stay away.

    Airflow learns late that a task process has ended, since its supervisor may sleep through that until its next
    heartbeat. If the task runs again by then, the scheduler takes the late news for its end and fails it. Only a
    SequentialExecutor knows at once.
    """
    if is_sequential():
        return 1.0
    return float(conf.getint("workers", "min_heartbeat_interval", fallback=5)) + 5.0


def _get(key: str, fallback: str) -> str:
    # Always with a fallback: a drop-in has no provider metadata, so its defaults may be missing.
    return str(conf.get(SECTION, key, fallback=fallback) or fallback)
