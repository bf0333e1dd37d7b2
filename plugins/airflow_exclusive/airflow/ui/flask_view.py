"""The page and its paths in Airflow 2's web server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_exclusive.airflow.link import NAME, ROUTE
from airflow_exclusive.airflow.ui.reports import Refused, Reports, Visitor, answered


def make_blueprint() -> Any:
    """Where the page's template and script are."""
    from flask import Blueprint

    return Blueprint(
        "exclusive_jobs",
        __name__,
        static_folder="static",
        static_url_path=f"/static/{ROUTE}",
        template_folder="templates",
    )


def make_view() -> Any:
    from airflow.www.auth import has_access_dag
    from airflow.www.views import AirflowBaseView
    from flask import Response, request
    from flask_appbuilder import expose

    from airflow_exclusive.airflow.ui import airflow_web

    class ExclusiveJobsView(AirflowBaseView):  # type: ignore[misc]
        route_base = f"/{ROUTE}"
        default_view = "page"
        class_permission_name = NAME

        @expose("/")  # type: ignore[untyped-decorator]
        @has_access_dag("GET", airflow_web.TASK_INSTANCE)  # type: ignore[untyped-decorator]
        def page(self) -> Any:
            return self.render_template("exclusive_jobs.html", title=NAME)

        @expose("/api/jobs")  # type: ignore[untyped-decorator]
        def jobs(self) -> Response:
            return answer(lambda: reports().jobs(request.args.get("search", ""), request.args.get("after", "")))

        @expose("/api/history")  # type: ignore[untyped-decorator]
        def history(self) -> Response:
            before = request.args.get("before", type=int)
            return answer(lambda: reports().history(request.args.get("job", ""), before))

        @expose("/api/release", methods=["POST"])  # type: ignore[untyped-decorator]
        def release(self) -> Response:
            def released() -> dict[str, Any]:
                given = request.get_json(silent=True)
                if not isinstance(given, dict) or not isinstance(given.get("token"), int):
                    raise Refused(400, "send job, token and reason as JSON")
                return reports().release(str(given.get("job", "")), given["token"], str(given.get("reason", "")))

            return answer(released)

    def reports() -> Reports:
        manager = airflow_web.auth_manager()
        if not manager.is_logged_in():
            raise Refused(401, "log in first")
        visitor = Visitor(manager.get_user_name(), airflow_web.may)
        return Reports(visitor, airflow_web.task_page, airflow_web.record_release)

    def answer(ask: Callable[[], dict[str, Any]]) -> Response:
        status, told = answered(ask)
        return Response(told, status, mimetype="application/json", headers={"Cache-Control": "no-store"})

    return ExclusiveJobsView()
