"""A deferrable sensor ends as one that pokes does, on both Airflow majors."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, TaskDeferred

from airflow_exclusive import JobAdmissionSensor, JobStatusSensor
from airflow_exclusive.airflow import connections
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS, DEFERRAL_TIMEOUT, AirflowSensorTimeout
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, StoreUnavailable
from tests.airflow.context import context_of
from tests.support.fakes import World, done, world

DOWN = StoreUnavailable("nobody answers")
TIMEOUT = "Trigger timeout" if AIRFLOW_V_3_0_PLUS else DEFERRAL_TIMEOUT
"""What Airflow says of a deferral that has lasted too long."""


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> World:
    """The sensor's guard, without stores."""
    made = world()
    monkeypatch.setattr(connections, "open_guard", lambda *_: nullcontext(made.guard))
    return made


def sensor(kind: Any = JobStatusSensor, **changes: Any) -> Any:
    return kind(**{"task_id": "sense", "job_name": "backup_daily", "run_key": "tick", "deferrable": True, **changes})


def resume(task: Any, method: str, **told: Any) -> Any:
    return task.resume_execution(method, told, context_of(task))


def test_who_has_waited_too_long_is_not_tried_again() -> None:
    with pytest.raises(AirflowSensorTimeout):
        resume(sensor(), "__fail__", error=TIMEOUT)


@pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="Airflow 3 doesn't count execution_timeout while a task is deferred")
def test_who_has_used_up_its_execution_timeout_is_tried_again() -> None:
    task = sensor(timeout=60, execution_timeout=timedelta(seconds=60))
    with pytest.raises(Exception, match=DEFERRAL_TIMEOUT) as ended:
        resume(task, "__fail__", error=TIMEOUT)
    assert not isinstance(ended.value, AirflowSensorTimeout)


def test_a_trigger_that_failed_is_tried_again() -> None:
    with pytest.raises(Exception, match="Trigger failure") as ended:
        resume(sensor(), "__fail__", error="Trigger failure")
    assert not isinstance(ended.value, (AirflowSensorTimeout, AirflowSkipException))


@pytest.mark.parametrize("policy", ["soft_fail", "never_fail"])
@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("__fail__", {"error": TIMEOUT}),
        ("__fail__", {"error": "Trigger failure"}),
        ("execute_complete", {"event": {"outcome": "done", "why": "it was"}}),
    ],
    ids=["timeout", "failure", "done"],
)
def test_what_is_not_to_fail_is_skipped_when_it_comes_back(policy: str, method: str, told: Any) -> None:
    task = sensor(JobAdmissionSensor, on_done="fail", **{policy: True})
    with pytest.raises(AirflowSkipException):
        resume(task, method, **told)


@pytest.mark.parametrize(
    ("policy", "ends"),
    [({}, ExclusiveError), ({"soft_fail": True}, ExclusiveError), ({"never_fail": True}, AirflowSkipException)],
)
def test_a_trigger_that_cannot_wait_fails_all_but_what_is_never_to_fail(policy: Any, ends: type[Exception]) -> None:
    with pytest.raises(ends):
        resume(sensor(**policy), "execute_complete", event={"outcome": "error", "why": "no such connection"})


@pytest.mark.parametrize(
    ("policy", "ends"),
    [
        ({}, StoreUnavailable),
        ({"soft_fail": True}, StoreUnavailable),
        ({"silent_fail": True}, TaskDeferred),
        ({"silent_fail": True, "soft_fail": True}, TaskDeferred),
        ({"silent_fail": True, "never_fail": True}, TaskDeferred),
        ({"never_fail": True}, AirflowSkipException),
    ],
)
def test_a_first_look_that_fails_ends_like_any_other(looking: World, policy: Any, ends: type[BaseException]) -> None:
    looking.statuses.looks = [DOWN]
    task = sensor(**policy)
    with pytest.raises(ends):
        task.execute(context_of(task))
    looking.statuses.looks = [DOWN, done()]
    task = sensor(**policy, deferrable=False, poke_interval=0.01)
    with nullcontext() if ends is TaskDeferred else pytest.raises(ends):
        task.execute(context_of(task))


@pytest.mark.parametrize(
    ("policy", "ends"),
    [
        ({}, AirflowFailException),
        ({"silent_fail": True}, AirflowFailException),
        ({"silent_fail": True, "never_fail": True}, AirflowSkipException),
        ({"soft_fail": True}, AirflowSkipException),
        ({"never_fail": True}, AirflowSkipException),
    ],
)
def test_a_tick_that_must_not_be_done_fails_at_the_first_look(
    looking: World, policy: Any, ends: type[BaseException]
) -> None:
    looking.statuses.looks = [done()]
    task = sensor(JobAdmissionSensor, on_done="fail", **policy)
    with pytest.raises(ends):
        task.execute(context_of(task))


@pytest.mark.parametrize("policy", [{}, {"silent_fail": True}])
@pytest.mark.parametrize("field", ["job_name", "run_key"])
def test_a_name_that_was_given_and_came_to_nothing_is_none(looking: World, field: str, policy: Any) -> None:
    """As a template of native objects may; it is not the default one."""
    task = sensor(**policy)
    setattr(task, field, None)
    with pytest.raises(InvalidSetting, match=f"{field}=None"):
        task.execute(context_of(task))
    assert looking.calls.names == []
