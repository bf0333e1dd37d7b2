"""Guarded tasks on a real scheduler, with real processes killed by real signals."""

from __future__ import annotations

import os
import signal

import psutil

from tests.acceptance.conftest import PATIENCE, Meetings, lose_node
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


def test_an_orphan_is_waited_for_and_its_work_is_not_repeated(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    note = case.note()

    os.kill(note["supervisor"], signal.SIGKILL)
    eventually(lambda: "own attempt" in _log(case, 2), timeout=PATIENCE)
    assert psutil.pid_exists(note["pid"]), "the orphan works on"
    case.go()
    case.wait_for("success")

    assert case.finished() == ["1"]
    assert case.outcomes() == ["success"]
    assert case.task()["try_number"] == 2
    assert "success without running again" in case.log(2)


def test_a_lost_node_is_taken_over_by_the_retry(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    first = case.note()

    lose_node(first["pid"])
    second = case.note(2)
    case.go()
    case.wait_for("success")

    assert second["token"] > first["token"]
    assert case.outcomes() == ["taken_over", "success"]
    assert case.finished() == [str(second["token"])]


def test_a_killed_task_whose_keeper_lives_is_closed_at_once(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    os.kill(case.note()["pid"], signal.SIGKILL)

    case.note(2)
    case.go()
    case.wait_for("success")

    assert case.outcomes() == ["failed", "success"]


def test_a_task_cleared_after_its_success_runs_again_once(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    case.go()
    case.wait_for("success")

    case.stop_again()
    case.api.clear(case.dag_id, case.run_id, "work")
    assert case.note(2)["generation"] == 2
    case.go()
    eventually(lambda: case.outcomes() == ["success", "success"], timeout=PATIENCE)
    case.wait_for("success")

    assert [attempt.generation for attempt in case.guard.history(case.job)] == [2, 1]


def test_an_orphans_success_that_airflow_never_saw_is_not_repeated_by_a_clear(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    note = case.note()
    os.kill(note["supervisor"], signal.SIGKILL)
    case.go()
    eventually(lambda: case.outcomes() == ["success"], timeout=PATIENCE)
    case.wait_for("success")  # by the retry, which found the orphan's work
    assert case.finished() == ["1"]


def test_clearing_a_running_task_ends_its_work_before_the_next_begins(meetings: Meetings) -> None:
    case = meetings.run("guarded")
    first = case.note()

    case.api.clear(case.dag_id, case.run_id, "work")
    second = case.note(2)

    assert not _works(first["pid"])
    assert case.finished() == []
    case.go()
    case.wait_for("success")
    assert case.finished() == [str(second["token"])]
    assert case.outcomes() == ["failed", "success"]


def test_sigterm_of_the_task_ends_a_command_that_ignores_it(meetings: Meetings) -> None:
    case = meetings.run("guarded_bash")
    (script,) = [int(path.read_text()) for path in case.started()]
    task = psutil.Process(script).parent()
    assert task is not None

    task.send_signal(signal.SIGTERM)
    case.started(2)

    assert not _works(script)
    case.go()
    case.wait_for("success")
    assert case.outcomes() == ["failed", "success"]


def test_a_lease_released_by_hand_stops_the_work(meetings: Meetings) -> None:
    case = meetings.run("guarded_bash")
    (script,) = [int(path.read_text()) for path in case.started()]

    case.guard.release(case.job, reason="test")
    case.started(2)
    eventually(lambda: not _works(script), timeout=PATIENCE)
    case.go()
    case.wait_for("success")

    assert case.outcomes() == ["released", "success"]


def test_the_same_fire_time_is_one_tick_on_every_timetable(meetings: Meetings, airflow_stack) -> None:
    import psycopg

    from tests.acceptance.dags.ticks import SCHEDULES, START

    api = airflow_stack.airflow.api
    with psycopg.connect(airflow_stack.warehouse_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE ticks (run_key text, dag_id text, at timestamptz DEFAULT now())")
    for dag_id in SCHEDULES:
        api.wait_for_dag(dag_id)
        api.unpause(dag_id)
        api.backfill(dag_id, START.replace(day=5), START.replace(day=8), max_active_runs=2)
    runs = eventually(lambda: _all_done(api, list(SCHEDULES)), timeout=PATIENCE)

    keys = {run["data_interval_end"] for run in runs}
    with psycopg.connect(airflow_stack.warehouse_dsn) as connection:
        lines = connection.execute("SELECT run_key, count(*) FROM ticks GROUP BY run_key").fetchall()
    assert len(runs) >= 4 * 3
    assert sorted(lines) == sorted((key, 1) for key in keys)


def _all_done(api, dag_ids):
    runs = [run for dag_id in dag_ids for run in api.dag_runs(dag_id) if run["run_type"] == "backfill"]
    return runs if runs and all(run["state"] in ("success", "failed") for run in runs) else None


def _log(case, try_number: int) -> str:
    try:
        return case.log(try_number)
    except Exception:  # there is no such try yet
        return ""


def _works(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


