"""A real browser at a real Airflow that asks who one is, and jobs that a test has run or runs itself."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import jwt
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from airflow_exclusive import JobGuard
from deploy.embedded.ports import LOOPBACK, free_port
from deploy.embedded.process import Daemon, kill_all, wait_until
from deploy.embedded.release import AIRFLOW_3
from deploy.embedded.stack import Stack
from tests.support.airflow_line import AIRFLOW

PATIENCE = 60_000.0
"""Milliseconds until something that must come is given up on."""
_PASSWORD = "a password of the tests"

expect.set_options(timeout=PATIENCE)


@dataclass(frozen=True)
class Ui:
    """Airflow's UI at `url`, and how a browser becomes somebody with a role: admin, op or viewer.

    In Airflow 2 there is narrow as well, which may read the DAG `guarded_and_quick`, and no other.
    """

    url: str
    log_in: Callable[[BrowserContext, str], None]

    @property
    def api(self) -> str:
        return f"{self.url}/exclusive-jobs/api"

    @property
    def page(self) -> str:
        return f"{self.url}/plugin/exclusive-jobs" if AIRFLOW.release is AIRFLOW_3 else f"{self.url}/exclusive-jobs/"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("BROWSER_REQUIRED"):
            pytest.fail("chromium isn't there; see deploy/system-packages.sh")
        pytest.skip("chromium isn't there")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def ui(airflow_stack: Stack) -> Iterator[Ui]:
    if AIRFLOW.release is AIRFLOW_3:
        yield from _below_a_path(airflow_stack)
    else:
        yield _with_people(airflow_stack)


def _below_a_path(stack: Stack) -> Iterator[Ui]:
    """A second web server of the deployment: in the first one, whoever opens the page is an admin."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}/airflow"
    env = stack.airflow.environment | {
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
    }
    home = stack.airflow.home
    server = Daemon.spawn(
        "second-api-server",
        [stack.airflow.python, "-m", "airflow", "api-server"],
        log=home / "logs" / "second-api-server.log",
        env=env,
        cwd=home,
    )
    try:
        wait_until(lambda: _answers(f"{url}/api/v2/version"), timeout=120, what="its version", daemons=[server])

        def log_in(context: BrowserContext, role: str) -> None:
            token = context.request.get(f"{stack.airflow.url}/auth/token").json()["access_token"]
            secret = env["AIRFLOW__API_AUTH__JWT_SECRET"]
            told = jwt.decode(token, secret, algorithms=["HS512"], options={"verify_aud": False})
            signed = jwt.encode({**told, "sub": role, "role": role}, secret, algorithm="HS512")
            context.clear_cookies()
            context.add_cookies([{"name": "_token", "value": signed, "url": f"http://{LOOPBACK}:{port}"}])

        yield Ui(url, log_in)
    finally:
        kill_all(server.family())


def _answers(url: str) -> bool | None:
    try:
        return httpx.get(url, trust_env=False).status_code == httpx.codes.OK or None
    except httpx.HTTPError:
        return None


def _with_people(stack: Stack) -> Ui:
    airflow = stack.airflow
    airflow.cli("roles", "create", "Narrow")
    airflow.cli("roles", "add-perms", "Narrow", "-a", "can_read", "-r", "DAG:guarded_and_quick")
    airflow.cli("roles", "add-perms", "Narrow", "-a", "can_read", "-r", "Task Instances", "DAG Runs", "Website")
    for role in ("op", "viewer", "narrow"):
        person = {"username": role, "role": role.title(), "email": f"{role}@localhost", "password": _PASSWORD}
        person |= {"firstname": role, "lastname": role}
        airflow.cli("users", "create", *(part for name, value in person.items() for part in (f"--{name}", value)))
    url = airflow.url
    assert airflow.login is not None
    admin = airflow.login

    def log_in(context: BrowserContext, role: str) -> None:
        name, password = admin if role == "admin" else (role, _PASSWORD)
        page = context.new_page()
        page.goto(f"{url}/login/")
        page.fill("#username", name)
        page.fill("#password", password)
        page.click("input[type=submit]")
        page.wait_for_url(f"{url}/home*")
        page.close()

    return Ui(url, log_in)


@pytest.fixture
def as_role(browser: Browser, ui: Ui) -> Iterator[Callable[[str], Page]]:
    """Give a page of somebody with a role, "" being anybody. Errors of our script fail the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def opened(role: str) -> Page:
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        if role:
            ui.log_in(context, role)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(error.stack or str(error)))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not [error for error in errors if "exclusive_jobs.js" in error], "Airflow's scripts have errors of their own"


@pytest.fixture
def guard(airflow_stack: Stack) -> Iterator[JobGuard]:
    with JobGuard(redis=airflow_stack.redis_url, postgres=airflow_stack.status_dsn) as made:
        yield made


@pytest.fixture
def job() -> str:
    """A name that means something to HTML, URLs and SQL; this test's own."""
    return f"<b>job</b> 100% & 'more'?#{uuid.uuid4().hex[:8]}"
