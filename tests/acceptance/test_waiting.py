"""Waiters without a worker, on a real scheduler and triggerer, while their runner dies, ends, or the triggerer dies."""

from __future__ import annotations

import os
import signal

import pytest

from deploy.embedded.release import AIRFLOW_2
from tests.acceptance.conftest import PATIENCE, Meetings, lose_node, works
from tests.support.airflow_line import AIRFLOW
from tests.support.waiting import eventually, stays

TTL = 10
AIRFLOWS_OWN = 30
"""Seconds, more than Airflow takes to start a task that it was told to start."""

AWAY = [("standby_defer", "deferred"), ("standby_reschedule", "up_for_reschedule")]


@pytest.mark.parametrize(("waiter", "state"), AWAY)
def test_a_waiter_takes_over_from_a_lost_node(meetings: Meetings, waiter: str, state: str) -> None:
    runner = meetings.run("guarded_once")
    note = runner.note()
    standby = runner.beside(waiter)
    standby.wait_for(state)

    lose_node(note["pid"])
    (lost,) = runner.guard.status(runner.job)
    eventually(lambda: len(runner.outcomes()) == 2, timeout=PATIENCE)
    (second, _) = runner.guard.history(runner.job)
    standby.go()
    standby.wait_for("success")
    runner.wait_for("failed")

    assert lost.lease_expires_at is not None
    waited = (second.started_at - lost.lease_expires_at).total_seconds()
    assert 0 <= waited < 0.5 * TTL + AIRFLOWS_OWN
    assert [runner.tries(), standby.tries()] == [["failed"], ["success"]]
    assert [runner.ended(), standby.ended()] == ["failed", "success"]
    assert runner.effects() == []
    standby.assert_in_order("taken_over", "success", effects=1)


@pytest.mark.parametrize(("waiter", "state"), AWAY)
def test_a_waiter_gets_its_turn_and_waits_until_then(meetings: Meetings, waiter: str, state: str) -> None:
    runner = meetings.run("guarded_once")
    runner.note()
    standby = runner.beside(waiter)
    standby.wait_for(state)
    assert stays(lambda: len(runner.outcomes()) == 1, 1.2 * TTL)

    runner.go()
    standby.wait_for("success")
    runner.wait_for("success")

    assert [runner.tries(), standby.tries()] == [["success"], ["success"]]
    assert [runner.ended(), standby.ended()] == ["success", "success"]
    assert runner.effects() == [1]
    standby.assert_in_order("success", "success", effects=1)


@pytest.mark.parametrize(("waiter", "state"), AWAY)
def test_a_retry_waits_away_for_its_own_orphan_and_does_not_repeat_its_work(
    meetings: Meetings, waiter: str, state: str
) -> None:
    case = meetings.run(waiter)
    orphan = case.note()
    os.kill(orphan["supervisor"], signal.SIGKILL)
    case.wait_for(state)
    assert works(orphan["pid"])

    case.go()
    case.wait_for("success")

    assert case.finished() == ["1"]
    assert case.tries() == ["failed", "success"]
    if AIRFLOW.release is not AIRFLOW_2:  # whose orphans mark the try that waits as a success themselves
        assert "success without running again" in case.log(2)
    case.assert_in_order("success")


@pytest.mark.parametrize(("waiter", "state"), AWAY)
def test_a_waiter_that_is_cleared_waits_on_and_gets_its_turn_once(meetings: Meetings, waiter: str, state: str) -> None:
    runner = meetings.run("guarded_once")
    runner.note()
    standby = runner.beside(waiter)
    standby.wait_for(state)

    before = standby.task()["try_number"]
    standby.api.clear(standby.dag_id, standby.run_id, "work")
    eventually(
        lambda: (now := standby.task())["try_number"] > before and now["state"] == state, timeout=PATIENCE, every=0.5
    )
    assert len(runner.outcomes()) == 1
    runner.go()
    standby.wait_for("success")

    assert runner.effects() == [1]
    standby.assert_in_order("success", "success", effects=1)


@pytest.mark.parametrize(("waiter", "state"), AWAY)
def test_a_waiter_that_is_marked_failed_leaves_the_turn_to_the_next(
    meetings: Meetings, waiter: str, state: str
) -> None:
    runner = meetings.run("guarded_once")
    runner.note()
    given_up, standby = runner.beside(waiter), runner.beside("standby_defer")
    given_up.wait_for(state)
    standby.wait_for("deferred")

    given_up.api.mark(given_up.dag_id, given_up.run_id, "work", "failed")
    given_up.wait_for("failed")
    runner.go()
    standby.wait_for("success")

    assert given_up.ended() == "failed"
    assert given_up.effects() == []
    standby.assert_in_order("success", "success", effects=1)


def test_a_deferred_waiter_sees_that_its_tick_was_done_and_by_whom(meetings: Meetings) -> None:
    runner = meetings.run("one_tick")
    runner.note()
    standby = runner.beside("one_tick")
    standby.wait_for("deferred")

    runner.go()
    standby.wait_for("skipped")

    (attempt,) = runner.guard.history(runner.job)
    answer = standby.api.xcom(standby.dag_id, standby.run_id, "work", "exclusive")
    assert (answer["decision"], answer["node_id"]) == ("already_done", attempt.node_id)


def test_a_deferred_waiter_survives_its_triggerer(meetings: Meetings) -> None:
    runner = meetings.run("guarded_once")
    runner.note()
    standby = runner.beside("standby_defer")
    standby.wait_for("deferred")

    airflow = standby.stack.airflow
    airflow.kill("triggerer", family=True)
    runner.go()
    runner.wait_for("success")
    assert standby.task()["state"] == "deferred"
    airflow.start("triggerer")
    airflow.wait_ready()
    standby.wait_for("success")

    standby.assert_in_order("success", "success", effects=1)


def test_one_of_many_deferred_waiters_is_woken_at_a_time(meetings: Meetings) -> None:
    runner = meetings.run("guarded_once")
    runner.note()
    waiters = [runner.beside("standby_defer") for _ in range(3)]
    for waiter in waiters:
        waiter.wait_for("deferred")

    runner.go()
    for waiter in waiters:
        waiter.wait_for("success")

    assert [waiter.log(1).count("; waiting (defer)") for waiter in waiters] == [1, 1, 1]
    waiters[0].assert_in_order("success", "success", "success", "success", effects=1)
