"""The page's paths in Airflow 3's API server. Whatever isn't asked for here, nobody asks: a plugin's app is open."""

# No postponed annotations: FastAPI has to find what the function below imports.
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from airflow_exclusive.airflow.ui.reports import Refused, Reports, Visitor, answered

if TYPE_CHECKING:
    from fastapi import FastAPI

_SCRIPT = Path(__file__).parent / "static" / "exclusive_jobs.js"


def make_app() -> "FastAPI":
    from fastapi import APIRouter, Body, Depends, FastAPI, Header, Response
    from fastapi.responses import FileResponse

    from airflow_exclusive.airflow.ui import airflow_web

    get_user = airflow_web.user_of_request()
    api = APIRouter(prefix="/api", dependencies=[Depends(get_user)])

    @api.get("/jobs")
    def jobs(user: Annotated[Any, Depends(get_user)], search: str = "", after: str = "") -> Response:
        return answer(lambda: reports(user).jobs(search, after))

    @api.get("/history")
    def history(user: Annotated[Any, Depends(get_user)], job: str, before: int | None = None) -> Response:
        return answer(lambda: reports(user).history(job, before))

    @api.post("/release")
    def release(
        user: Annotated[Any, Depends(get_user)],
        job: Annotated[str, Body()],
        token: Annotated[int, Body()],
        reason: Annotated[str, Body()],
        sent_by_page: Annotated[str, Header(alias="X-Exclusive-Jobs")] = "",
    ) -> Response:
        def released() -> dict[str, Any]:
            if not sent_by_page:  # which no page of another site can send along
                raise Refused(403, "the header X-Exclusive-Jobs is missing")
            return reports(user).release(job, token, reason)

        return answer(released)

    def reports(user: Any) -> Reports:
        visitor = Visitor(str(user.get_name()), partial(airflow_web.may, user=user))
        return Reports(visitor, airflow_web.task_page, airflow_web.record_release)

    def answer(ask: Callable[[], dict[str, Any]]) -> Response:
        status, told = answered(ask)
        return Response(told, status, media_type="application/json", headers={"Cache-Control": "no-store"})

    app = FastAPI(title="Exclusive jobs", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(api)

    @app.get("/static/exclusive_jobs.js")
    def script() -> FileResponse:
        return FileResponse(_SCRIPT, media_type="text/javascript")

    return app
