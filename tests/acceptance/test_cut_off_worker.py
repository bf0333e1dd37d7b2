"""A worker that Airflow doesn't hear of for longer than it waits for a task's heartbeat, while the task works on."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from deploy.embedded.ports import LOOPBACK
from deploy.embedded.release import AIRFLOW_2
from deploy.embedded.stack import Stack
from tests.acceptance.conftest import PATIENCE, Meetings, scheduler_with, works
from tests.support.airflow_line import AIRFLOW
from tests.support.jobs import freeze, thaw
from tests.support.proxy import FOR_EVER, HELD, REPLY_LOST, REQUEST_LOST, HttpProtocol, Matches, Proxy, by_task
from tests.support.waiting import eventually

needs_an_api_server = pytest.mark.skipif(
    AIRFLOW.release is AIRFLOW_2, reason="Airflow 2's tasks ask their database, no API server"
)

_IMPATIENT_WORKERS = {
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "1",
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
}
"""One whose requests fail gives its task up before Airflow does, one that gets no answer long after."""


@pytest.fixture(scope="module")
def line(airflow_stack: Stack) -> Iterator[Proxy]:
    """What the workers' requests to the API server go through, until the end of this module's tests."""
    airflow = airflow_stack.airflow
    proxy = Proxy(HttpProtocol(), LOOPBACK, airflow.api_port)
    url = f"http://{LOOPBACK}:{proxy.port}/execution/"
    with scheduler_with(airflow, {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": url, **_IMPATIENT_WORKERS}):
        yield proxy
    proxy.close()


def success_of(task_instance_id: str) -> Matches:
    """What its supervisor tells Airflow when this try has succeeded."""
    theirs = by_task(task_instance_id)
    told = re.compile(rb'PATCH /execution/task-instances/[^/]+/state .*"state": *"success"', re.DOTALL)
    return lambda request: told.match(request) is not None and theirs(request)


def test_a_worker_that_stood_still_past_the_heartbeat_timeout_does_not_work_beside_the_next(
    meetings: Meetings,
) -> None:
    case = meetings.run("guarded")
    first = case.note()

    freeze(first["supervisor"])

    case.second_waits_until_thawed(first)
    assert case.tries() == ["failed", "success"]


@needs_an_api_server
def test_an_api_server_that_stood_still_past_the_heartbeat_timeout_causes_no_second_run(
    meetings: Meetings, airflow_stack: Stack
) -> None:
    case = meetings.run("guarded")
    first = case.note()
    server = [process.pid for process in airflow_stack.airflow.daemons["api-server"].family()]
    state = "SELECT state FROM task_instance WHERE dag_id = %s AND run_id = %s"

    freeze(*server)
    try:
        with psycopg.connect(airflow_stack.metadata_dsn, autocommit=True) as metadata:
            asked = [case.dag_id, case.run_id]
            eventually(lambda: metadata.execute(state, asked).fetchone() != ("running",), timeout=PATIENCE)
        assert works(first["pid"]), "Airflow has given up a task that works on"
    finally:
        thaw(*server)

    case.second_follows(first)
    case.assert_in_order("failed", "success")


@needs_an_api_server
def test_a_worker_that_airflow_did_not_hear_of_for_a_while_does_not_work_beside_the_next(
    meetings: Meetings, line: Proxy
) -> None:
    case = meetings.run("guarded")
    first = case.note()

    silence = line.arm(by_task(case.task()["id"]), HELD, times=FOR_EVER)
    case.second_waits(first)
    silence.lift()

    case.second_follows(first)
    case.assert_in_order("failed", "success")


@needs_an_api_server
def test_a_worker_that_reaches_airflow_no_more_ends_its_work_before_the_next(meetings: Meetings, line: Proxy) -> None:
    case = meetings.run("guarded")
    first = case.note()

    line.arm(by_task(case.task()["id"]), REQUEST_LOST, times=FOR_EVER)

    case.second_follows(first)
    case.assert_in_order("failed", "success")


@needs_an_api_server
def test_a_success_that_airflow_does_not_hear_of_or_does_not_answer_is_not_repeated(
    meetings: Meetings, line: Proxy
) -> None:
    unheard, unanswered = meetings.run("guarded"), meetings.run("guarded")
    lost = []
    for case, kind, times in ((unheard, REQUEST_LOST, FOR_EVER), (unanswered, REPLY_LOST, 1)):
        case.note()
        lost.append(line.arm(success_of(case.task()["id"]), kind, times=times))

    for case in (unheard, unanswered):
        case.go()
    for case in (unheard, unanswered):
        case.wait_for("success")

    assert all(fault.hit.is_set() for fault in lost)
    assert unheard.tries() == ["failed", "success"]
    assert "success without running again" in unheard.log(2)
    assert unanswered.tries() == ["success"]
    for case in (unheard, unanswered):
        assert case.ended() == "success"
        case.assert_in_order("success")
