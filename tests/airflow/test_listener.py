"""What Airflow has shown is confirmed in the ledger, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from airflow_exclusive.airflow import listener
from airflow_exclusive.core.job import Source
from deploy.embedded.release import AIRFLOW_2
from tests.support.airflow_line import AIRFLOW

SOURCE = Source("blue", "flights", "scheduled__1", "load", -1, try_number=1)
LOST = pytest.mark.skipif(AIRFLOW.release is AIRFLOW_2, reason="Airflow 2 has committed what it tells listeners of")


class TaskInstance:
    """As a task of Airflow 3 sees itself. `state`: what Airflow answers."""

    dag_id, run_id, task_id, map_index = "flights", "scheduled__1", "load", -1

    def __init__(self, state: str | Exception = "success") -> None:
        self._state = state

    def get_task_states(self, dag_id: str, map_index: int, task_ids: list[str], run_ids: list[str]) -> Any:
        if isinstance(self._state, Exception):
            raise self._state
        assert (dag_id, map_index, task_ids, run_ids) == ("flights", -1, ["load"], ["scheduled__1"])
        return {"scheduled__1": {"load": self._state}}


class Guard:
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.closed = error, False
        self.confirmed: list[tuple[str, str, Source]] = []

    def confirm(self, job_name: str, run_key: str, source: Source) -> None:
        if self.error:
            raise self.error
        self.confirmed.append((job_name, run_key, source))

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


def shown(hook: Callable[..., None], guard: Guard, state: str | Exception = "success") -> Guard:
    listener.confirm_later(guard, "payroll", "tick", SOURCE)  # type: ignore[arg-type]
    hook(previous_state="running", task_instance=TaskInstance(state))
    return guard


@pytest.mark.parametrize("hook", [listener.on_task_instance_success, listener.on_task_instance_skipped])
def test_what_airflow_has_shown_is_confirmed_once(hook: Any) -> None:
    guard = shown(hook, Guard())
    hook(previous_state="running", task_instance=TaskInstance())
    assert guard.confirmed == [("payroll", "tick", SOURCE)]
    assert guard.closed


@LOST
@pytest.mark.parametrize("state", ["running", "failed", OSError("cut off")])
def test_a_success_that_airflow_has_not_got_is_not_confirmed(state: str | Exception) -> None:
    guard = shown(listener.on_task_instance_success, Guard(), state)
    assert guard.confirmed == []
    assert guard.closed


def test_an_orphan_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listener.confirm_later(guard := Guard(), "payroll", "tick", SOURCE)  # type: ignore[arg-type]
    monkeypatch.setattr(os, "getppid", lambda: 1)
    listener.on_task_instance_success(previous_state="running", task_instance=TaskInstance())
    assert guard.confirmed == []
    assert guard.closed


def test_nor_does_one_whose_supervisor_had_died_before_it_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_supervisor", None)
    listener.on_task_instance_running(previous_state="queued", task_instance=object())
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert shown(listener.on_task_instance_success, guard := Guard()).closed
    assert guard.confirmed == []


def test_a_ledger_that_is_away_does_no_harm_to_the_task() -> None:
    assert shown(listener.on_task_instance_success, Guard(OSError("away"))).closed
