"""What becomes of an admission's answer in Airflow: an XCom, and an early word where it shows a mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.errors import InvalidSetting

if TYPE_CHECKING:
    from airflow_exclusive.core.admission import Admitted, AlreadyDone, Busy
    from airflow_exclusive.core.job import Source

XCOM_KEY = "exclusive"
"""Under which a task leaves what it was told."""


def refuse_shared_key(answer: Busy | AlreadyDone, source: Source) -> None:
    """Mapped instances that share job and tick would silently leave all but one undone."""
    from airflow_exclusive.core.admission import Busy

    other = answer.holder if isinstance(answer, Busy) else answer.run
    if other is None or other.source.map_index == source.map_index:
        return
    asked = answer.run_key if isinstance(answer, Busy) else other.run_key
    siblings = (other.source.deployment, other.source.dag_id, other.source.run_id, other.source.task_id)
    if other.run_key == asked and siblings == (source.deployment, source.dag_id, source.run_id, source.task_id):
        raise InvalidSetting(
            "job_name",
            other.job_name,
            f"mapped instances {other.source.map_index} and {source.map_index} of {source.task_id} share it and the"
            " tick, so only one of them would run: put {{ ti.map_index }} or the mapped value into job_name or run_key",
        )


def as_xcom(answer: Admitted | Busy | AlreadyDone) -> dict[str, Any]:
    from airflow_exclusive.core.admission import Admitted, Busy

    told: dict[str, Any] = {"why": str(answer), "job_name": _job_of(answer)}
    if isinstance(answer, Admitted):
        lease = answer.lease
        told |= {"decision": "admitted", "run_key": lease.run_key, "token": lease.token}
        told |= {"generation": lease.generation, "attempt": lease.attempt, "owner": lease.owner}
        told["took_over_from"] = answer.took_over.node_id if answer.took_over else None
        return told
    run = answer.holder if isinstance(answer, Busy) else answer.run
    told["decision"] = "busy" if isinstance(answer, Busy) else "already_done"
    if run is not None:
        told |= {"run_key": run.run_key, "token": run.fencing_token, "node_id": run.node_id}
        told |= {"since": run.started_at.isoformat(), "by": str(run.source)}
        until = run.lease_expires_at or run.finished_at
        told["until"] = until.isoformat() if until else None
    return told


def _job_of(answer: Admitted | Busy | AlreadyDone) -> str:
    from airflow_exclusive.core.admission import Admitted, AlreadyDone

    if isinstance(answer, Admitted):
        return answer.lease.job_name
    return answer.run.job_name if isinstance(answer, AlreadyDone) else answer.job_name
