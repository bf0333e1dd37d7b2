"""What Airflow loads: the listener that confirms successes, the page "Exclusive jobs" and the links to it.

Web code is imported where a web server asks for it, and nowhere else.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow_exclusive import __version__
from airflow_exclusive.airflow import listener
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS, AirflowPlugin


class AirflowExclusivePlugin(AirflowPlugin):
    name = "airflow_exclusive"
    listeners = [listener]  # noqa: RUF012

    @cached_property
    def operator_extra_links(self) -> list[Any]:  # type: ignore[override]
        from airflow_exclusive.airflow.link import ExclusiveJobLink

        return [ExclusiveJobLink()]

    # Airflow 3

    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        if not AIRFLOW_V_3_0_PLUS:
            return []
        from airflow_exclusive.airflow.link import NAME, ROUTE
        from airflow_exclusive.airflow.ui.fastapi_app import make_app

        return [{"app": make_app(), "url_prefix": f"/{ROUTE}", "name": NAME}]

    @cached_property
    def react_apps(self) -> list[Any]:  # type: ignore[override]
        from airflow_exclusive.airflow.link import NAME, ROUTE, base_path

        script = f"{base_path()}/{ROUTE}/static/exclusive_jobs.js?{__version__}"
        return [{"name": NAME, "bundle_url": script, "destination": "nav", "category": "browse", "url_route": ROUTE}]

    # Airflow 2

    @cached_property
    def appbuilder_views(self) -> list[Any]:  # type: ignore[override]
        if AIRFLOW_V_3_0_PLUS:
            return []
        from airflow_exclusive.airflow.link import NAME
        from airflow_exclusive.airflow.ui.flask_view import make_view

        return [{"name": NAME, "category": "Browse", "view": make_view()}]

    @cached_property
    def flask_blueprints(self) -> list[Any]:  # type: ignore[override]
        if AIRFLOW_V_3_0_PLUS:
            return []
        from airflow_exclusive.airflow.ui.flask_view import make_blueprint

        return [make_blueprint()]
