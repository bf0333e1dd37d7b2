"""What a task leaves for a retry that only finds it done, and what becomes of that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator

from airflow_exclusive import ExclusivePythonOperator, exclusive
from airflow_exclusive.airflow import connections, listener
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS, SKIPS_WHAT_FOLLOWS
from airflow_exclusive.airflow.results import MOST, ResultMissing
from tests.airflow.context import context_of
from tests.support.fakes import TASK, World, done, world

only_3 = pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="in Airflow 2 the operator does it all and returns")


@pytest.fixture(autouse=True)
def confirmed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(listener, "confirm_later", lambda *_: told.append("later"))
    return told


@pytest.fixture
def finding_it_done(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], World]:
    """The task's guard finds a success of its own that has kept this."""

    def made(kept: str | None) -> World:
        asked = world(replace(done(source=TASK), by_own_attempt=True, result=kept))
        asked.guard.close = lambda: asked.calls("close")  # type: ignore[attr-defined]
        monkeypatch.setattr(connections, "open_guard", lambda *_: asked.guard)
        return asked

    return made


def task_of(result: Any, operator: Any = ExclusivePythonOperator, **arguments: Any) -> Any:
    with DAG("any", schedule=None):
        task = operator(task_id="work", python_callable=lambda: result, **arguments)
        BaseOperator(task_id="after").set_upstream(task)
    return task


def execute(task: Any, pushed: dict[str, Any] | None = None) -> Any:
    context = context_of(task)
    context["ti"].xcom_push = lambda key, value: None if pushed is None else pushed.update({key: value})
    context["ti"].xcom_pull = lambda **_: None
    return task.execute(context)


def kept_by(asked: World) -> str | None:
    (kept,) = asked.statuses.results
    return kept


@pytest.mark.parametrize(
    "value",
    [
        "text",
        "odd \x00 \ud83d",
        [1, 2.5, None, True],
        (1, "a tuple"),
        {"nested": {"deep": [datetime(2026, 1, 2, tzinfo=timezone.utc)]}},
        {"returned": 1, "missing": "a word of ours"},
        0,
        False,
        "",
    ],
    ids=repr,
)
def test_what_a_task_returned_is_what_its_retry_returns(
    admitting: World, finding_it_done: Callable[[str | None], World], value: Any
) -> None:
    task = task_of(value, show_return_value_in_logs=False)  # no test process could tell another what was logged
    assert execute(task) == value
    asked = finding_it_done(kept_by(admitting))
    again = execute(task)
    assert (again, type(again)) == (value, type(value))
    assert asked.statuses.finished == []


@pytest.mark.parametrize(("result", "arguments"), [(None, {}), ("text", {"do_xcom_push": False})], ids=str)
def test_what_airflow_would_not_be_given_is_not_kept(
    admitting: World, finding_it_done: Callable[[str | None], World], result: Any, arguments: dict[str, Any]
) -> None:
    task = task_of(result, **arguments)
    execute(task)
    assert kept_by(admitting) is None
    finding_it_done(None)
    assert execute(task) is None


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (object(), "its result, of type object, can't be written as JSON"),
        ("x" * MOST, "its result, of type str, had 65556 characters as JSON, more than 65536"),
    ],
    ids=["odd", "long"],
)
def test_a_retry_that_has_nothing_to_hand_over_fails_and_a_clear_then_runs_again(
    admitting: World,
    finding_it_done: Callable[[str | None], World],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    confirmed: list[str],
    result: Any,
    why: str,
) -> None:
    task = task_of(result)
    monkeypatch.setattr(type(task), "log", logging.getLogger("of the task"))
    with caplog.at_level(logging.WARNING):
        assert execute(task) is result
    assert why in caplog.text
    assert "should Airflow not see this try succeed, the retry will fail" in caplog.text
    assert admitting.statuses.finished == [("success", None, 0.0)]
    assert confirmed == ["later"]

    asked = finding_it_done(kept_by(admitting))
    with pytest.raises(ResultMissing, match="Clear the task to have it run again") as error:
        execute(task)
    assert why in str(error.value)
    assert asked.calls.names[-2:] == ["confirm", "close"]


def test_a_result_that_cannot_be_read_is_missing(finding_it_done: Callable[[str | None], World]) -> None:
    finding_it_done('{"returned": "not JSON"}')
    with pytest.raises(ResultMissing, match="its result can't be read"):
        execute(task_of(None))


def test_a_task_that_ends_its_lease_itself_is_done(admitting: World) -> None:
    def work(lease: Any) -> str:
        lease.finish()
        return "text"

    with DAG("any", schedule=None):
        task = ExclusivePythonOperator(task_id="work", python_callable=work)
    assert execute(task) == "text"
    assert admitting.statuses.finished == [("success", None, 0.0)]


@only_3
def test_a_retry_of_what_skipped_the_tasks_that_follow_skips_them(
    admitting: World, finding_it_done: Callable[[str | None], World], confirmed: list[str]
) -> None:
    task = task_of(False, exclusive(ShortCircuitOperator), do_xcom_push=False)
    for asked in (admitting, None):
        pushed: dict[str, Any] = {}
        if asked is None:
            finding_it_done(kept_by(admitting))
        with pytest.raises(SKIPS_WHAT_FOLLOWS) as skipping:
            execute(task, pushed)
        assert skipping.value.tasks == ["after"]
        assert pushed == {"skipmixin_key": {"skipped": ["after"]}}
    assert confirmed == ["later", "later"]


@only_3
def test_tasks_that_are_named_with_their_map_index_are_named_so_again(
    finding_it_done: Callable[[str | None], World],
) -> None:
    finding_it_done('{"skips": [["one", -1], ["two", -1]]}')
    pushed: dict[str, Any] = {}
    with pytest.raises(SKIPS_WHAT_FOLLOWS) as skipping:
        execute(task_of(None, do_xcom_push=False), pushed)
    assert skipping.value.tasks == [("one", -1), ("two", -1)]
    assert pushed == {"skipmixin_key": {"skipped": ["one", "two"]}}
