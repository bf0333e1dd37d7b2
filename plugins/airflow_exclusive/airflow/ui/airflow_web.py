"""The names of Airflow that only its web servers have."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
from airflow_exclusive.airflow.link import base_path

if TYPE_CHECKING:
    from airflow_exclusive.airflow.ui.reports import Method
    from airflow_exclusive.core.admission import Attempt
    from airflow_exclusive.core.job import Source

_managers = import_module(
    "airflow.api_fastapi.app" if AIRFLOW_V_3_0_PLUS else "airflow.www.extensions.init_auth_manager"
)
_details = import_module(
    "airflow.api_fastapi.auth.managers.models.resource_details"
    if AIRFLOW_V_3_0_PLUS
    else "airflow.auth.managers.models.resource_details"
)
TASK_INSTANCE: Any = _details.DagAccessEntity.TASK_INSTANCE


def auth_manager() -> Any:
    return _managers.get_auth_manager()


def user_of_request() -> Any:
    """What FastAPI is to depend on: it finds the user, or refuses the request."""
    return import_module("airflow.api_fastapi.core_api.security").get_user


def may(method: Method, dag_id: str, **user: Any) -> bool:
    """Whether the visitor may read or change the task instances of a DAG, or with an empty name, those of all DAGs.

    user: `user=` in Airflow 3; in Airflow 2 it is whoever has sent the request.
    """
    asked: dict[str, Any] = {"method": method, **user}
    if dag_id:
        asked["details"] = _dag_details(dag_id)
    elif not auth_manager().is_authorized_dag(**asked):  # not all managers ask about all DAGs where a part is named
        return False
    return bool(auth_manager().is_authorized_dag(**asked, access_entity=TASK_INSTANCE))


def _dag_details(dag_id: str) -> Any:
    if "team_name" not in getattr(_details.DagDetails, "__dataclass_fields__", {}):
        return _details.DagDetails(id=dag_id)
    team_name = import_module("airflow.models.dag").DagModel.get_team_name(dag_id)
    return _details.DagDetails(id=dag_id, team_name=team_name)


def task_page(source: Source) -> str:
    """The address of a task instance in this Airflow's UI."""
    dag_id, run_id, task_id = (quote(part, safe="") for part in (source.dag_id, source.run_id, source.task_id))
    if AIRFLOW_V_3_0_PLUS:
        mapped = f"/mapped/{source.map_index}" if source.map_index >= 0 else ""
        return f"{base_path()}/dags/{dag_id}/runs/{run_id}/tasks/{task_id}{mapped}"
    query: dict[str, Any] = {"dag_run_id": source.run_id, "task_id": source.task_id}
    if source.map_index >= 0:
        query["map_index"] = source.map_index
    return f"{base_path()}/dags/{dag_id}/grid?{urlencode(query)}"


def record_release(who: str, attempt: Attempt, reason: str) -> None:
    """Note it in the audit log, with the task instance whose attempt it was."""
    log = import_module("airflow.models.log").Log
    source = attempt.source
    details = {"job_name": attempt.job_name, "run_key": attempt.run_key, "token": attempt.fencing_token}
    with import_module("airflow.utils.session").create_session() as session:
        session.add(
            log(
                event="exclusive_job_released",
                owner=who,
                owner_display_name=who,
                extra=json.dumps({**details, "node_id": attempt.node_id, "reason": reason}),
                dag_id=source.dag_id or None,
                run_id=source.run_id or None,
                task_id=source.task_id or None,
                map_index=source.map_index,
                try_number=source.try_number,
            )
        )
