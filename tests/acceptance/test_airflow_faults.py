"""What Airflow does to tasks by itself, or is told to do by a person: no job of ours ever works twice at a time."""

from __future__ import annotations

import json
import os
import signal
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD

import psutil
import psycopg
import pytest

from airflow_exclusive.keeper.page import Page
from deploy.embedded.airflow import AirflowDeployment
from deploy.embedded.process import kill_all
from deploy.embedded.release import AIRFLOW_2
from deploy.embedded.stack import Stack
from tests.acceptance.conftest import PATIENCE, Meeting, Meetings, keeper_of, scheduler_with, works
from tests.support.airflow_line import AIRFLOW
from tests.support.jobs import freeze, thaw
from tests.support.waiting import eventually

_STALE_AFTER = 5
_HASTY = {
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(_STALE_AFTER),
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "1",
    **AIRFLOW.patient,
}
"""A scheduler that gives up on another, or on itself, within seconds instead of minutes.

On itself it may then do so more often than a test asks for. What it writes down as its last heartbeat is the one before
that, and it looks for dead schedulers every second: wherever two turns of its loop take longer than `_STALE_AFTER`, as
on a busy machine when it starts workers, it finds its own job dead and puts a third try in the place of the second, at
any moment of that one's life. A second try that has done the work, but is replaced before it can say so, is "failed"
for Airflow, and the third finds the tick done. How many tries there are is therefore Airflow's affair; ours is that
the work is done once, that no two tries are at it together, and that the task ends as a success.
"""

_PAUSES = 3
_LOOKS = "Adopting or resetting orphaned tasks"
_FOUND = "Marked 1 SchedulerJob instances as failed"


@pytest.fixture(scope="module")
def hasty_scheduler(airflow_stack: Stack) -> Iterator[AirflowDeployment]:
    """The stack with such a scheduler, until the end of this module's tests."""
    airflow = airflow_stack.airflow
    with scheduler_with(airflow, _HASTY):
        yield airflow


def test_sigterm_of_the_supervisor_ends_the_work_before_the_next_attempt(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    first = case.note()

    os.kill(first["supervisor"], signal.SIGTERM)
    case.note(2)

    assert not works(first["pid"])
    case.go()
    case.wait_for("success")
    assert case.tries() == ["failed", "success"]
    case.assert_in_order("failed", "success")


@pytest.mark.parametrize("what", ["guarded", "guarded_bash"])
def test_sigterm_of_a_whole_container_gives_the_lease_back(meetings: Meetings, what: str) -> None:
    """As when a pod is stopped: the supervisor, its task, the keeper and what the task started are told together."""
    case = meetings.run(f"{what}_with_long_lease")
    (started,) = case.started()
    task = _task_of(what, started)
    supervisor, family = task.parent(), [task, *task.children(recursive=True)]
    assert supervisor is not None
    assert keeper_of(task.pid) in [process.pid for process in family]

    for process in (supervisor, *family):
        with suppress(psutil.NoSuchProcess):  # what a script starts comes and goes
            process.send_signal(signal.SIGTERM)
    case.started(2)

    assert not [process for process in family if works(process.pid)]
    case.go()
    case.wait_for("success")
    assert case.tries() == ["failed", "success"]
    case.assert_in_order("failed", "success", effects=0 if what == "guarded_bash" else 1)


def test_sigterm_while_an_attempt_is_being_closed_leaves_it_closed(meetings: Meetings) -> None:
    """A container's end tells a task twice, once through its supervisor: the second time may come at any moment."""
    case = meetings.run("guarded_with_long_lease")
    task = psutil.Process(case.note()["pid"])
    keeper = keeper_of(task.pid)
    eventually(lambda: _is_ready(keeper), timeout=PATIENCE)
    freeze(keeper)  # so that the attempt's end, which waits for it, takes seconds

    task.terminate()
    eventually(lambda: _orders_for(keeper), timeout=PATIENCE)
    task.terminate()

    case.started(2)
    assert not works(task.pid)
    assert not works(keeper)
    case.go()
    case.wait_for("success")
    case.assert_in_order("failed", "success")


def _is_ready(keeper: int) -> bool:
    """Whether its job would wait for it."""
    with Path(f"/proc/{keeper}/fd", psutil.Process(keeper).cmdline()[-1]).open("r+b", buffering=0) as page:
        return Page(page.fileno()).read().ready


def _orders_for(keeper: int) -> int:
    """Bytes that its job has sent it and that it hasn't read."""
    waiting = array("i", [0])
    with Path(f"/proc/{keeper}/fd/0").open("rb", buffering=0) as pipe:
        ioctl(pipe, FIONREAD, waiting)
    return waiting[0]


def _task_of(what: str, started: Path) -> psutil.Process:
    """The task's process, by the note that its work has left."""
    if what == "guarded":
        return psutil.Process(json.loads(started.read_text())["pid"])
    task = psutil.Process(int(started.read_text())).parent()
    assert task is not None
    return task


@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_a_running_task_ends_its_work(meetings: Meetings, state: str) -> None:
    case = meetings.run("guarded")
    first = case.note()

    case.api.mark(case.dag_id, case.run_id, "work", state)
    eventually(lambda: not works(first["pid"]), timeout=PATIENCE)
    case.api.wait_for_run(case.dag_id, case.run_id, timeout=PATIENCE)

    assert case.tries() == [state], "what the person said stays"
    case.assert_in_order("failed")
    assert case.effects() == []


@pytest.mark.parametrize("what", ["guarded", "guarded_bash", "guarded_fork"])
def test_execution_timeout_ends_the_work_before_the_next_attempt(meetings: Meetings, what: str) -> None:
    case = meetings.run(f"{what}_with_timeout")
    case.started(2)
    case.go()
    case.wait_for("success")

    assert case.tries() == ["failed", "success"]
    case.assert_in_order("failed", "success", effects=0 if what == "guarded_bash" else 1)


def test_a_task_without_memory_fails_and_is_tried_again(meetings: Meetings) -> None:
    case = meetings.run("guarded_without_memory")
    case.go()
    case.wait_for("success")

    assert case.tries() == ["failed", "success"]
    assert "MemoryError" in str(case.guard.history(case.job)[-1].error)
    case.assert_in_order("failed", "success")


FROZEN, HEALTHY = "its supervisor frozen", "its supervisor healthy"


@pytest.mark.parametrize("task", [FROZEN, HEALTHY])
def test_a_restarted_scheduler_does_not_start_a_running_task_twice(
    meetings: Meetings, hasty_scheduler: AirflowDeployment, airflow_stack: Stack, task: str
) -> None:
    """Airflow starts a second try of a task that runs and sends heartbeats.

    Frozen, the first one's supervisor can't hear of that, so that both tries are there and the second waits. Healthy,
    it may end the first one before the second asks.
    """
    case = meetings.run("guarded")
    first = case.note()
    if task == FROZEN:
        freeze(first["supervisor"])
    left_behind = hasty_scheduler.daemons["scheduler"].family()

    try:
        _kill_outside_of_a_transaction(hasty_scheduler, airflow_stack)
        hasty_scheduler.start("scheduler", env=_HASTY)
        if task == FROZEN:
            case.second_waits_until_thawed(first, replaced_once=False)
            _assert_replaced_tries_failed(case)
        else:
            case.second_comes()
            case.go()
            case.assert_done_once(replaced_once=False)
    finally:
        kill_all(left_behind)


@pytest.mark.skipif(
    AIRFLOW.release is AIRFLOW_2, reason="Airflow 2 takes itself for dead and alive in turns, and may leave its task be"
)
@pytest.mark.parametrize("task", [FROZEN, HEALTHY])
def test_a_scheduler_that_stood_still_does_not_start_its_own_task_twice(
    meetings: Meetings, hasty_scheduler: AirflowDeployment, airflow_stack: Stack, task: str
) -> None:
    """As above; here it is the task's own scheduler that starts it again."""
    case = meetings.run("guarded")
    first = case.note()
    if task == FROZEN:
        freeze(first["supervisor"])

    # Only a pause in the middle of such a look goes unseen: then once more.
    assert any(_reset_by_a_pause(hasty_scheduler, airflow_stack.metadata_dsn) for _ in range(_PAUSES))
    if task == FROZEN:
        case.second_waits_until_thawed(first, replaced_once=False)
        _assert_replaced_tries_failed(case)
    else:
        case.second_comes()
        case.go()
        case.assert_done_once(replaced_once=False)


def _assert_replaced_tries_failed(case: Meeting) -> None:
    """As Airflow shows them; the last try is the success."""
    *replaced, last = case.tries()
    assert last == "success"
    assert set(replaced) == (set() if AIRFLOW.release is AIRFLOW_2 else {"failed"})  # 2 keeps no note of such a try


def _kill_outside_of_a_transaction(airflow: AirflowDeployment, stack: Stack) -> None:
    """The executor's workers share the scheduler's connection to its database: while they live, so would its locks."""
    _freeze_outside_of_a_transaction(airflow, stack.metadata_dsn)
    airflow.kill("scheduler")


def _freeze_outside_of_a_transaction(airflow: AirflowDeployment, metadata_dsn: str) -> int:
    """The scheduler's pid."""
    scheduler = psutil.Process(airflow.daemons["scheduler"].pid)
    with psycopg.connect(metadata_dsn, autocommit=True) as metadata:
        while True:
            freeze(scheduler.pid)
            ports = [own.laddr.port for own in scheduler.net_connections() if own.status == psutil.CONN_ESTABLISHED]
            query = "SELECT count(*) FROM pg_stat_activity WHERE client_port = ANY(%s) AND state <> 'idle'"
            if metadata.execute(query, [ports]).fetchone() == (0,):
                return scheduler.pid
            thaw(scheduler.pid)


def _reset_by_a_pause(airflow: AirflowDeployment, metadata_dsn: str) -> bool:
    """Stop the scheduler until it looks dead; whether it then takes its own job for that of a dead one.

    Awake again it first sends a heartbeat, but Airflow writes down when it sent the one before.
    """
    log = airflow.log("scheduler")
    scheduler = _freeze_outside_of_a_transaction(airflow, metadata_dsn)
    seen = len(log.read_text())
    time.sleep(_STALE_AFTER + 0.1)
    thaw(scheduler)
    # By its second look it has said what it found at the first.
    said = eventually(
        lambda: text if _FOUND in (text := log.read_text()[seen:]) or text.count(_LOOKS) > 1 else "", timeout=PATIENCE
    )
    return _FOUND in said
