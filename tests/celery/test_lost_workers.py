"""A job on Celery is done once, whatever becomes of its worker and however often the broker delivers it."""

from __future__ import annotations

import re
import signal

import psutil
import pytest

from deploy.demo.celery.workers import stopped
from deploy.embedded import Stack
from tests.acceptance.conftest import PATIENCE, Meetings, works
from tests.celery.conftest import answers, worker_of
from tests.support.waiting import eventually

EXECUTING = r"\[([\w-]+)\] Executing workload in Celery: .*"
REDELIVERED = "[{}] Task already running elsewhere, ignoring redelivered message"
WARM_SHUTDOWN = "worker: Warm shutdown"


def was_redelivered(stack: Stack, run_id: str) -> bool:
    """Whether a worker was given the run's task while it was running."""
    logs = "\n".join(stack.airflow.log(worker).read_text(errors="replace") for worker in stack.airflow.workers)
    return any(REDELIVERED.format(message) in logs for message in re.findall(EXECUTING + re.escape(run_id), logs))


def said(stack: Stack, worker: str, text: str) -> int:
    """How often the worker's log has it."""
    return stack.airflow.log(worker).read_text(errors="replace").count(text)


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


@pytest.mark.parametrize("case", ["guarded", "guarded_that_is_only_warned"])
def test_worker_stopped_mid_job(meetings: Meetings, celery_stack: Stack, case: str) -> None:
    """The worker's machine stands still, keeper and all, until the other one has done the job; then it goes on.

    A job that is to be stopped ends itself as soon as it finds its keeper silent and its lease over, refused or not.
    """
    meeting = meetings.run(case)
    job = psutil.Process(meeting.note()["pid"])
    standing = worker_of(celery_stack, job.pid)

    with stopped(celery_stack.airflow.daemons[standing]):
        second = meeting.note(2)
        assert worker_of(celery_stack, second["pid"]) != standing
        meeting.go()
        meeting.wait_for("success")
        # The job before its supervisor, which would end it as soon as Airflow tells that its time is over.
        job.resume()
        if case == "guarded":
            eventually(lambda: not works(job.pid), timeout=PATIENCE)
        else:
            eventually(lambda: meeting.guard.refusals(meeting.job), timeout=PATIENCE)
    eventually(lambda: answers(celery_stack, standing), timeout=PATIENCE)

    refused = {(one.reason, one.source.try_number) for one in meeting.guard.refusals(meeting.job)}
    assert refused == {("stale", 1)} or (case == "guarded" and not refused)
    assert meeting.finished() == ["2"]
    assert meeting.effects() == [2]
    assert meeting.outcomes() == ["taken_over", "success"]
    assert meeting.tries() == ["failed", "success"]


def test_worker_told_to_stop_ends_its_job_first(meetings: Meetings, celery_stack: Stack) -> None:
    """Celery's warm shutdown, as on an upgrade: no new tasks, and what runs comes to its end."""
    meeting = meetings.run("guarded")
    job = meeting.note()["pid"]
    leaving = worker_of(celery_stack, job)
    worker, before = celery_stack.airflow.daemons[leaving], said(celery_stack, leaving, WARM_SHUTDOWN)

    worker.send(signal.SIGTERM)
    eventually(lambda: said(celery_stack, leaving, WARM_SHUTDOWN) > before, timeout=PATIENCE)
    eventually(lambda: not answers(celery_stack, leaving), timeout=PATIENCE)

    assert works(job)
    meeting.go()
    meeting.wait_for("success")
    assert worker.wait(PATIENCE)
    assert meeting.tries() == ["success"]
    meeting.assert_in_order("success")


def test_broker_restarted_mid_job(meetings: Meetings, celery_stack: Stack) -> None:
    """The broker is also the lock server: the job's lock and the worker's message go away with it and come back."""
    meeting = meetings.run("guarded")
    job = meeting.note()["pid"]
    valkey = celery_stack.servers.valkey

    valkey.stop()
    valkey.start()
    eventually(lambda: answers(celery_stack, *celery_stack.airflow.workers), timeout=PATIENCE)

    assert works(job)
    meeting.go()
    meeting.wait_for("success")
    assert meeting.tries() == ["success"]
    meeting.assert_in_order("success")


def test_broker_delivers_a_running_job_again(meetings: Meetings, celery_stack: Stack) -> None:
    meeting = meetings.run("guarded")
    meeting.started()

    # Once, perhaps even before the job has begun: the second copy of its message is confirmed and gone.
    eventually(lambda: was_redelivered(celery_stack, meeting.run_id), timeout=PATIENCE, every=0.5)

    meeting.go()
    meeting.wait_for("success")
    assert meeting.tries() == ["success"]
    meeting.assert_in_order("success")


def test_pool_process_killed(meetings: Meetings, celery_stack: Stack) -> None:
    """The job lives on without its supervisor; Celery reports the loss, and Airflow's next try waits for the orphan."""
    meeting = meetings.run("guarded")
    job = meeting.note()["pid"]

    psutil.Process(meeting.note()["supervisor"]).kill()

    eventually(
        lambda: "waiting for this task instance's own attempt" in meeting.asked_for_log(2), timeout=PATIENCE, every=0.5
    )
    assert works(job)
    meeting.go()
    meeting.wait_for("success")
    meeting.assert_in_order("success")
