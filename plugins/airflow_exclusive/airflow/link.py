"""Where the page "Exclusive jobs" is, and the link to it on each guarded task instance."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS, BaseOperatorLink, conf

NAME = "Exclusive jobs"
ROUTE = "exclusive-jobs"


def base_path() -> str:
    """What the paths of Airflow's UI begin with: empty, unless it is served below a path of its host."""
    address = conf.get("api" if AIRFLOW_V_3_0_PLUS else "webserver", "base_url", fallback="") or ""
    return urlsplit(address).path.rstrip("/")


def page_path(job_name: str | None = None) -> str:
    """The page, with one job or with all of them."""
    page = f"{base_path()}/plugin/{ROUTE}" if AIRFLOW_V_3_0_PLUS else f"{base_path()}/{ROUTE}/"
    return page if job_name is None else f"{page}?job={quote(job_name, safe='')}"


class ExclusiveJobLink(BaseOperatorLink):
    """From a task instance to its job; it leads somewhere as soon as the task has been told an answer."""

    name = "Exclusive job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        job_name = operator.exclusive_asked_for if AIRFLOW_V_3_0_PLUS else _told(ti_key).get("job_name")
        return page_path(job_name) if job_name else ""


def _told(ti_key: Any) -> dict[str, Any]:
    """What the task has left: Airflow 3 asks for the link in the task's own process, Airflow 2 in the web server."""
    from airflow_exclusive.airflow.answers import XCOM_KEY
    from airflow_exclusive.airflow.compat_xcom import xcom_of

    told = xcom_of(ti_key, XCOM_KEY)
    return told if isinstance(told, dict) else {}
