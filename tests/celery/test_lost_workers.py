"""A job on Celery is done once, whatever becomes of its worker and however often the broker delivers it."""

from __future__ import annotations

import psutil

from deploy.embedded import Stack
from tests.acceptance.conftest import PATIENCE, Meetings, works
from tests.celery.conftest import worker_of
from tests.support.waiting import eventually

REDELIVERED = "Task already running elsewhere, ignoring redelivered message"


def redeliveries(stack: Stack) -> int:
    return sum(
        stack.airflow.log(worker).read_text(errors="replace").count(REDELIVERED) for worker in stack.airflow.workers
    )


def test_each_worker_is_a_node_of_its_own(meetings: Meetings, celery_stack: Stack) -> None:
    meeting = meetings.run("guarded")
    worker = worker_of(celery_stack, meeting.note()["pid"])
    (attempt,) = meeting.guard.history(meeting.job)
    assert attempt.node_id.startswith(f"{worker}/")
    meeting.go()
    meeting.wait_for("success")
    meeting.assert_in_order("success")


def test_worker_lost_mid_job(meetings: Meetings, celery_stack: Stack) -> None:
    """The worker's machine loses its power: the other worker does the job, which takes effect once."""
    meeting = meetings.run("guarded")
    lost = worker_of(celery_stack, meeting.note()["pid"])

    celery_stack.airflow.lose(lost)

    second = meeting.note(2)
    assert worker_of(celery_stack, second["pid"]) != lost
    meeting.go()
    meeting.wait_for("success")
    meeting.assert_in_order("taken_over", "success")


def test_broker_delivers_a_running_job_again(meetings: Meetings, celery_stack: Stack) -> None:
    meeting = meetings.run("guarded")
    meeting.started()
    before = redeliveries(celery_stack)

    eventually(lambda: redeliveries(celery_stack) > before, timeout=PATIENCE)

    meeting.go()
    meeting.wait_for("success")
    assert meeting.tries() == ["success"]
    meeting.assert_in_order("success")


def test_pool_process_killed(meetings: Meetings, celery_stack: Stack) -> None:
    """The job lives on without its supervisor; Celery reports the loss, and Airflow's next try waits for the orphan."""
    meeting = meetings.run("guarded")
    job = meeting.note()["pid"]

    psutil.Process(meeting.note()["supervisor"]).kill()

    eventually(lambda: "waiting for this task instance's own attempt" in meeting.asked_for_log(2), timeout=PATIENCE)
    assert works(job)
    meeting.go()
    meeting.wait_for("success")
    meeting.assert_in_order("success")
