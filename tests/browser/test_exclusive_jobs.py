"""The page "Exclusive jobs", looked at and used as people do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Route, expect

from airflow_exclusive import Admitted, JobGuard, LeaseLost
from airflow_exclusive.core.settings import LeaseSettings
from deploy.embedded.release import AIRFLOW_3
from deploy.embedded.stack import Stack
from tests.browser.conftest import Ui
from tests.support.airflow_line import AIRFLOW
from tests.support.waiting import eventually

AsRole = Callable[[str], Page]

TICK = "2026-01-02T00:00:00Z"


@pytest.fixture
def open_page(as_role: AsRole, ui: Ui) -> Callable[..., Page]:
    """The page as somebody sees it, with one job or all."""

    def opened(role: str, job: str | None = None) -> Page:
        page = as_role(role)
        page.goto(ui.page if job is None else f"{ui.page}?job={quote(job, safe='')}")
        return page

    return opened


def attempts(page: Page) -> Any:
    return page.get_by_role("table", name="Attempts").locator("tbody tr")


def release(page: Page, reason: str) -> Any:
    """Ask for it as a person does; gives the dialog."""
    page.get_by_role("button", name="Release…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(reason)
    dialog.get_by_role("button", name="Release", exact=True).click()
    return dialog


def run_by_airflow(stack: Stack, job: str) -> str:
    """Have a guarded task do it; gives its run."""
    api = stack.airflow.api
    api.wait_for_dag("guarded_and_quick")
    api.unpause("guarded_and_quick")
    run_id = api.trigger_dag("guarded_and_quick", conf={"job": job})
    assert api.wait_for_run("guarded_and_quick", run_id) == "success"
    return run_id


def test_the_menu_leads_to_the_jobs_and_a_job_to_its_attempts_and_back(
    as_role: AsRole, ui: Ui, guard: JobGuard, job: str
) -> None:
    with guard.hold(job, run_key=TICK):
        pass
    page = as_role("admin")
    page.goto(f"{ui.url}/")
    page.get_by_text("Browse", exact=True).click()
    page.get_by_text("Exclusive jobs", exact=True).click()

    page.get_by_label("Search jobs").fill(job[-8:].upper())
    expect(page.get_by_role("table", name="Jobs").locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name=job, exact=True).click()
    expect(page.get_by_role("heading", name=job)).to_be_visible()
    expect(attempts(page)).to_have_count(1)
    expect(attempts(page)).to_contain_text(TICK)
    expect(attempts(page)).to_contain_text("success")

    page.go_back()
    expect(page.get_by_label("Search jobs")).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("heading", name=job)).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name=job)).to_be_visible()


def test_it_follows_what_happens_while_it_is_open(open_page: Callable[..., Page], guard: JobGuard, job: str) -> None:
    page = open_page("viewer", job)
    expect(page.get_by_text("None that you may see.")).to_be_visible()
    with guard.hold(job, run_key=TICK):
        expect(attempts(page)).to_contain_text("running")
        assert not isinstance(guard.admit(job, run_key="another"), Admitted)
        expect(page.get_by_role("table", name="Refused")).to_contain_text("busy")
    expect(attempts(page)).to_contain_text("success")


def test_a_release_ends_the_attempt_and_says_who_and_why(
    open_page: Callable[..., Page], airflow_stack: Stack, guard: JobGuard, job: str
) -> None:
    admission = guard.admit(job, settings=LeaseSettings(ttl=6, on_lease_lost="raise"))
    assert isinstance(admission, Admitted)
    lease = admission.lease
    page = open_page("op", job)
    expect(attempts(page)).to_contain_text("running")
    expect(release(page, "it hangs <i>here</i>")).to_be_hidden()

    expect(attempts(page)).to_contain_text("released")
    reason = "it hangs <i>here</i> (op, in the UI of tested)"
    expect(attempts(page)).to_contain_text(reason)
    expect(page.get_by_role("button", name="Release…")).to_have_count(0)
    assert [(one.outcome, one.error) for one in guard.history(job)] == [("released", reason)]
    events = airflow_stack.airflow.api.get("/eventLogs", event="exclusive_job_released", limit=100)["event_logs"]
    (event,) = [one for one in events if json.loads(one["extra"])["job_name"] == job]
    told = json.loads(event["extra"])
    assert (event["owner"], told["token"], told["reason"]) == ("op", lease.token, reason)
    eventually(lambda: lease.lost or None, timeout=30)
    with pytest.raises(LeaseLost):
        lease.ensure_held()


def test_who_came_after_is_not_released_in_the_others_place(
    open_page: Callable[..., Page], guard: JobGuard, job: str
) -> None:
    with guard.hold(job):
        page = open_page("op", job)
        page.get_by_role("button", name="Release…").click()
    with guard.hold(job) as other:
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("too late")
        dialog.get_by_role("button", name="Release", exact=True).click()
        expect(dialog.get_by_role("alert")).to_contain_text("look again")
        other.ensure_held()
        assert guard.history(job)[0].outcome == "running"


def test_a_job_that_is_held_back_is_let_go(open_page: Callable[..., Page], guard: JobGuard, job: str) -> None:
    with guard.hold(job, settings=LeaseSettings(hold_at_least=600)):
        pass
    page = open_page("op", job)
    expect(page.get_by_text("success, held back")).to_be_visible()
    expect(release(page, "needed now")).to_be_hidden()
    expect(page.get_by_text("success, held back")).to_have_count(0)
    with guard.hold(job):
        pass


def test_a_guarded_task_links_to_its_job_and_the_job_to_the_task(
    as_role: AsRole, ui: Ui, airflow_stack: Stack, job: str
) -> None:
    run_id = run_by_airflow(airflow_stack, job)
    links = airflow_stack.airflow.api.get(f"/dags/guarded_and_quick/dagRuns/{quote(run_id)}/taskInstances/work/links")
    address = links.get("extra_links", links)["Exclusive job"]
    assert address == ui.page.removeprefix(ui.url) + f"?job={quote(job, safe='')}"

    page = as_role("viewer")
    page.goto(f"{ui.url}{address}")
    expect(page.get_by_role("heading", name=job)).to_be_visible()
    attempts(page).get_by_role("link", name="guarded_and_quick.work").click()
    page.wait_for_url(re.compile("dags/guarded_and_quick/"))
    if AIRFLOW.release is AIRFLOW_3:
        page.get_by_role("link", name="Details").click()
    expect(page.get_by_role("link", name="Exclusive job", exact=True)).to_have_attribute("href", address)


def test_more_attempts_than_one_answer_holds_are_shown_on_demand(
    open_page: Callable[..., Page], guard: JobGuard, job: str
) -> None:
    for _ in range(101):
        with guard.hold(job):
            pass
    page = open_page("viewer", job)
    expect(attempts(page)).to_have_count(100)
    page.get_by_role("button", name="Show more").click()
    expect(attempts(page)).to_have_count(101)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)


def test_an_error_is_shown_until_it_is_over(open_page: Callable[..., Page], guard: JobGuard, job: str) -> None:
    page = open_page("viewer", job)
    expect(page.get_by_text("None that you may see.")).to_be_visible()

    def away(route: Route) -> None:
        route.fulfill(status=503, json={"error": "Postgres at there doesn't answer"})

    page.route("**/api/history*", away)
    notice = page.locator(".exclusive-jobs > .notice")
    expect(notice).to_have_text("Postgres at there doesn't answer")
    with guard.hold(job):
        pass
    page.unroute("**/api/history*", away)
    expect(attempts(page)).to_contain_text("success")
    expect(notice).to_be_hidden()


# who may what


@pytest.mark.parametrize("path", ["jobs", "history?job=x"])
def test_nobody_is_told_anything_without_a_login(as_role: AsRole, ui: Ui, path: str) -> None:
    answer = as_role("").request.get(f"{ui.api}/{path}")
    assert (answer.status, "attempts" in answer.text()) == (401, False)


@pytest.mark.parametrize("role", ["", "viewer", "op"])
def test_who_may_not_or_is_not_on_the_page_cannot_release(
    as_role: AsRole, ui: Ui, guard: JobGuard, job: str, role: str
) -> None:
    """A page of another site may have the browser send the operator's cookies along, but no header of its own."""
    with guard.hold(job) as lease:
        body = {"job": job, "token": lease.token, "reason": "test"}
        answer = as_role(role).request.post(f"{ui.api}/release", data=body)
        assert answer.status in (400, 401, 403)
        assert guard.history(job)[0].outcome == "running"


def test_a_viewer_sees_the_job_but_no_way_to_release_it(
    open_page: Callable[..., Page], ui: Ui, guard: JobGuard, job: str
) -> None:
    with guard.hold(job) as lease:
        page = open_page("viewer", job)
        expect(attempts(page)).to_contain_text("running")
        expect(page.get_by_role("button", name="Release…")).to_have_count(0)
        answer = post_as_page(page, ui, {"job": job, "token": lease.token, "reason": "test"})
        assert (answer.status, "you may see" in answer.text()) == (403, True)
        assert guard.history(job)[0].outcome == "running"


@pytest.mark.skipif(AIRFLOW.release is AIRFLOW_3, reason="its own auth manager knows no permissions by DAG")
def test_who_may_read_one_dag_sees_what_came_from_it_alone(
    open_page: Callable[..., Page], airflow_stack: Stack, guard: JobGuard, job: str
) -> None:
    run_by_airflow(airflow_stack, job)
    with guard.hold(f"{job} by command"):
        pass
    page = open_page("narrow")
    page.get_by_label("Search jobs").fill(job)
    jobs = page.get_by_role("table", name="Jobs").locator("tbody tr")
    expect(jobs).to_have_count(1)
    expect(jobs).to_contain_text("guarded_and_quick.work")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 1001}, "1000"),
        ({"token": 99}, "look again"),
        ({"job": "no such"}, "no job 'no such'"),
        ({"job": ""}, "job_name"),
        ({"token": "many"}, "token"),
        ({"token": None}, "token"),
    ],
)
def test_a_release_that_makes_no_sense_is_told_why(
    open_page: Callable[..., Page], ui: Ui, guard: JobGuard, job: str, given: dict[str, Any], says: str
) -> None:
    with guard.hold(job) as lease:
        page = open_page("admin")
        answer = post_as_page(page, ui, {"job": job, "token": lease.token, "reason": "test", **given})
        assert 400 <= answer.status < 500
        assert says in answer.text()
        assert guard.history(job)[0].outcome == "running"


def post_as_page(page: Page, ui: Ui, body: dict[str, Any]) -> Any:
    headers = {"X-Exclusive-Jobs": "1"}
    if AIRFLOW.release is not AIRFLOW_3:
        headers["X-CSRFToken"] = page.locator("#exclusive-jobs").get_attribute("data-csrf") or ""
    return page.request.post(f"{ui.api}/release", data=body, headers=headers)
