"""Guarded tasks on a real scheduler, with real processes killed by real signals."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import psycopg
import pytest

from deploy.embedded.airflow import AirflowDeployment
from deploy.embedded.release import AIRFLOW_2
from deploy.embedded.stack import Stack
from tests.acceptance.conftest import PATIENCE, Meetings, keeper_of, kill_at_once, lose_node, works
from tests.acceptance.dags.ticks import SCHEDULES, START
from tests.support.airflow_line import AIRFLOW
from tests.support.waiting import eventually


def test_a_guarded_task_runs_and_says_what_was_decided(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    case.go()

    case.wait_for("success")

    assert case.outcomes() == ["success"]
    told = case.api.xcom(case.dag_id, case.run_id, "work", "exclusive")
    assert told["decision"] == "admitted"
    assert told["token"] == 1
    assert "admitted:" in case.log(1)


def test_a_scheduler_has_loaded_what_the_tasks_that_it_forks_need(airflow_stack: Stack) -> None:
    scheduler = psutil.Process(airflow_stack.airflow.daemons["scheduler"].pid)

    assert [path for area in scheduler.memory_maps() if "psycopg_binary" in (path := area.path)]


def test_an_orphan_is_waited_for_and_its_work_is_not_repeated(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    note = case.note()

    os.kill(note["supervisor"], signal.SIGKILL)
    eventually(lambda: "own attempt" in case.asked_for_log(2), timeout=PATIENCE, every=0.5)
    assert psutil.pid_exists(note["pid"]), "the orphan works on"
    case.go()
    case.wait_for("success")

    assert case.finished() == ["1"]
    assert case.tries() == ["failed", "success"]
    assert "success without running again" in case.log(2)
    case.assert_in_order("success")


def test_what_an_orphan_returned_is_handed_over_by_the_retry(meetings: Meetings) -> None:
    case = meetings.run("guarded_for_others")
    os.kill(case.note()["supervisor"], signal.SIGKILL)
    eventually(lambda: "own attempt" in case.asked_for_log(2), timeout=PATIENCE, every=0.5)
    case.go()

    assert case.ended() == "success"
    tasks = case.api.task_instances(case.dag_id, case.run_id)
    states = {(one["task_id"], one["map_index"]): one["state"] for one in tasks}
    assert states == dict.fromkeys([("work", -1), ("all", -1), ("each", 0), ("each", 1)], "success")
    assert case.given("all") == ["done with token 1", "and more"]
    assert [case.given("each", map_index=index) for index in (0, 1)] == case.given("all")
    assert case.finished() == ["1"]
    assert case.tries() == ["failed", "success"]
    case.assert_in_order("success")


def test_a_lost_node_is_taken_over_by_the_retry(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    first = case.note()

    lose_node(first["pid"])
    second = case.note(2)
    case.go()
    case.wait_for("success")

    assert second["token"] > first["token"]
    assert case.finished() == [str(second["token"])]
    assert case.tries() == ["failed", "success"]
    case.assert_in_order("taken_over", "success")


def test_a_killed_task_whose_keeper_lives_is_closed_at_once(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    os.kill(case.note()["pid"], signal.SIGKILL)

    case.note(2)
    case.go()
    case.wait_for("success")

    assert case.tries() == ["failed", "success"]
    case.assert_in_order("failed", "success")


@pytest.mark.parametrize(("what", "outcome"), [("whole", "taken_over"), ("keeper left", "failed")])
def test_a_container_that_the_kernel_kills_is_replaced(meetings: Meetings, what: str, outcome: str) -> None:
    """For want of memory: all of it (memory.oom.group), or the supervisor and its task."""
    case = meetings.run("guarded" if what == "whole" else "guarded_with_long_lease")
    first = case.note()
    keeper = [keeper_of(first["pid"])] if what == "whole" else []

    kill_at_once(first["supervisor"], first["pid"], *keeper)

    case.second_follows(first)
    case.assert_in_order(outcome, "success")


def test_a_task_cleared_after_its_success_runs_again_once(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    case.go()
    case.wait_for("success")
    case.wait_until_confirmed(1)

    case.stop_again()
    case.clear_ended()
    assert case.note(2)["generation"] == 2
    case.go()
    eventually(lambda: case.outcomes() == ["success", "success"], timeout=PATIENCE)
    case.wait_for("success")

    assert [attempt.generation for attempt in case.guard.history(case.job)] == [2, 1]
    assert case.tries() == ["success", "success"]
    case.assert_in_order("success", "success")


def test_a_success_that_airflow_never_saw_is_not_repeated_by_a_clear(meetings: Meetings) -> None:
    case = meetings.run("guarded_once")
    os.kill(case.note()["supervisor"], signal.SIGKILL)
    case.wait_for("failed")
    case.go()
    eventually(lambda: case.outcomes() == ["success"], timeout=PATIENCE)

    case.clear_ended()
    case.wait_for("success")
    assert case.finished() == ["1"], "the orphan had done it"
    case.wait_until_confirmed(2)

    case.clear_ended()
    eventually(lambda: case.outcomes() == ["success", "success"], timeout=PATIENCE)
    assert case.finished() == ["1", "2"], "now that Airflow had shown it, it was asked to run again"
    case.wait_for("success")
    assert case.tries()[1:] == ["success", "success"], "the first is what the orphan may have told of itself"
    case.assert_in_order("success", "success")


def test_clearing_a_running_task_ends_its_work_before_the_next_begins(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    first = case.note()

    case.api.clear(case.dag_id, case.run_id, "work")
    second = case.note(2)

    assert not works(first["pid"])
    assert case.finished() == []
    case.go()
    case.wait_for("success")
    assert case.finished() == [str(second["token"])]
    assert case.tries() == ["failed", "success"]
    case.assert_in_order("failed", "success")


@pytest.mark.parametrize("what", ["guarded_that_swallows_exceptions", "guarded_in_c_code", "guarded_bash"])
def test_clearing_a_task_that_does_not_listen_ends_its_work_before_the_next_begins(
    meetings: Meetings, what: str
) -> None:
    case = meetings.run(what)
    (started,) = case.started()
    first = int(started.read_text()) if what == "guarded_bash" else case.note()["pid"]

    case.api.clear(case.dag_id, case.run_id, "work")
    if what != "guarded_bash" and not AIRFLOW.restarts_killed_tasks:
        eventually(lambda: case.outcomes() == ["failed"], timeout=PATIENCE)
        assert case.task()["state"] == "restarting"
        case.api.clear(case.dag_id, case.run_id, "work")
    case.started(2)

    assert not works(first)
    assert case.finished() == []
    case.go()
    case.wait_for("success")
    assert case.tries() == ["failed", "success"]
    assert case.ended() == "success"
    case.assert_in_order("failed", "success", effects=0 if what == "guarded_bash" else 1)


def test_sigterm_in_the_middle_of_a_question_to_airflow_ends_the_work(meetings: Meetings) -> None:
    """Who asks Airflow in its signal handler then waits for ever for a lock that the interrupted code has."""
    case = meetings.run("guarded_that_asks_airflow")
    first = case.note()

    os.kill(first["pid"], signal.SIGTERM)

    case.second_follows(first)
    case.assert_in_order("failed", "success")


def test_sigterm_of_the_task_ends_a_command_that_ignores_it(meetings: Meetings) -> None:
    case = meetings.run("guarded_bash")
    (script,) = [int(path.read_text()) for path in case.started()]
    task = psutil.Process(script).parent()
    assert task is not None

    task.send_signal(signal.SIGTERM)
    case.started(2)

    assert not works(script)
    case.go()
    case.wait_for("success")
    assert case.tries() == ["failed", "success"]
    case.assert_in_order("failed", "success", effects=0)


def test_a_lease_released_by_hand_stops_the_work(meetings: Meetings) -> None:
    case = meetings.run("guarded_bash")
    (script,) = [int(path.read_text()) for path in case.started()]

    case.guard.release(case.job, reason="test")
    case.started(2)
    eventually(lambda: not works(script), timeout=PATIENCE)
    case.go()
    case.wait_for("success")

    assert case.tries() == ["failed", "success"]
    case.assert_in_order("released", "success", effects=0)


def test_the_same_fire_time_is_one_tick_on_every_timetable(airflow_stack: Stack) -> None:
    api = airflow_stack.airflow.api
    _make_table(airflow_stack)
    for dag_id in SCHEDULES:
        api.wait_for_dag(dag_id)
        api.unpause(dag_id)
    with ThreadPoolExecutor(len(SCHEDULES)) as at_once:
        list(at_once.map(partial(_backfill, airflow_stack.airflow), SCHEDULES))
    runs = [run for dag_id in SCHEDULES for run in api.dag_runs(dag_id) if run["run_type"] == "backfill"]
    states: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        # Not for the run: with Airflow 2, a skipped task of a backfill may write its run back to running, for ever.
        task = api.wait_for_task(run["dag_id"], run["dag_run_id"], "run_it", timeout=PATIENCE)
        states[run["data_interval_end"].replace("+00:00", "Z")].append(task["state"])
    keys = set(states)
    assert len(runs) > 2 * len(keys), "most fire times were asked for in several ways"
    for of_one_tick in states.values():
        assert sorted(of_one_tick) == [*["skipped"] * (len(of_one_tick) - 1), "success"]
    with psycopg.connect(airflow_stack.warehouse_dsn) as connection:
        lines = connection.execute("SELECT run_key, count(*) FROM ticks GROUP BY run_key").fetchall()
    assert {line for line in lines if line[0] in keys} == {(key, 1) for key in keys}
    assert all(count == 1 for _, count in lines), "nor did a scheduled run repeat one"


def test_a_manual_run_is_a_tick_of_its_own(airflow_stack: Stack) -> None:
    api = airflow_stack.airflow.api
    _make_table(airflow_stack)
    api.wait_for_dag("ticks_by_cron")
    api.unpause("ticks_by_cron")
    run_id = api.trigger_dag("ticks_by_cron", logical_date=START.replace(day=6, hour=1))

    assert api.wait_for_run("ticks_by_cron", run_id, timeout=PATIENCE) == "success"
    assert api.task_instance("ticks_by_cron", run_id, "run_it")["state"] == "success"
    assert api.xcom("ticks_by_cron", run_id, "run_it", "exclusive")["run_key"] == run_id


def _make_table(stack: Stack) -> None:
    with psycopg.connect(stack.warehouse_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS ticks (run_key text, dag_id text)")


def _backfill(airflow: AirflowDeployment, dag_id: str) -> None:
    """Ask for the runs of a few days; with Airflow 2, whose API can't be asked, wait for them as well."""
    first, last = START.replace(day=5), START.replace(day=8)
    if AIRFLOW.release is AIRFLOW_2:
        airflow.cli("dags", "backfill", dag_id, "--start-date", first.isoformat(), "--end-date", last.isoformat())
    else:
        airflow.api.backfill(dag_id, first, last, max_active_runs=2)
