"""The truth on a real server: one runner, each tick once, and nothing changed by who isn't the runner any more."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest

from airflow_exclusive.core.admission import AlreadyDone, Busy, Claim
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, StoreUnavailable
from airflow_exclusive.core.job import Request, Source
from airflow_exclusive.core.ports import LockAnswer
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.stores.postgres.schema import upgrade
from tests.support.ledger import JOB, NEXT_TICK, START, TASK, TICK, Ledger, request
from tests.support.waiting import eventually

SETTINGS = LeaseSettings()
ODD = "no rows in b\udcffd \ud83d \x00 \\ ' %s"
"""With what neither UTF-8 nor Postgres can hold: a file's name may have undecodable bytes, a program may print NUL."""
KEPT = "no rows in b�d � � \\ ' %s"


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    made = Ledger(database)
    yield made
    made.close()


# claim


def test_the_first_one_gets_the_claim(ledger: Ledger) -> None:
    asked = request(source=TASK)
    claim = ledger.claim(0, asked)
    attempt = claim.attempt
    assert (attempt.job_name, attempt.run_key, attempt.owner, attempt.node_id) == (JOB, TICK, asked.owner, "node-a")
    assert (attempt.fencing_token, attempt.generation, attempt.attempt, attempt.outcome) == (1, 1, 1, "running")
    assert attempt.lease_expires_at is not None
    assert (attempt.lease_expires_at - attempt.started_at).total_seconds() == 30
    assert attempt.source == TASK
    assert claim.took_over is None


def test_another_one_is_busy_until_the_lease_lapses(ledger: Ledger) -> None:
    claim = ledger.claim(0, request(node="node-b"))
    answer = ledger.at(20).claim(request(), SETTINGS)
    assert answer == Busy(JOB, TICK, claim.attempt, retry_after=10)
    assert ledger.at(20).look(request()) == answer


def test_another_tick_of_a_running_job_is_busy_too(ledger: Ledger) -> None:
    ledger.claim(0, request())
    answer = ledger.at(1).claim(request(NEXT_TICK), SETTINGS)
    assert isinstance(answer, Busy)
    assert answer.holder is not None
    assert answer.holder.run_key == TICK


def test_another_job_is_free(ledger: Ledger) -> None:
    ledger.claim(0, request())
    assert ledger.claim(0, request(job="another")).attempt.fencing_token == 1


def test_a_claim_sent_twice_is_one_claim(ledger: Ledger) -> None:
    asked = request()
    assert ledger.claim(0, asked) == ledger.claim(0, asked)
    assert ledger.outcomes() == [(1, 1, 1, "running")]


def test_a_takeover_sent_twice_still_tells_whom_it_ended(ledger: Ledger) -> None:
    ledger.claim(0, request(node="node-b"))
    asked = request()
    first, second = ledger.claim(31, asked), ledger.claim(31, asked)
    assert first == second
    assert first.took_over is not None
    assert first.took_over.node_id == "node-b"


def test_a_claim_that_has_ended_is_never_made_again(ledger: Ledger) -> None:
    asked = request()
    claim = ledger.claim(0, asked)
    ledger.at(1).finish(claim, "failed", "no rows", 0)
    assert ledger.at(2).claim(asked, SETTINGS) is None
    assert ledger.outcomes() == [(1, 1, 1, "failed")]


def test_a_done_tick_is_done_for_everybody_and_for_ever(ledger: Ledger) -> None:
    ledger.done(0, request())
    for second in (2, 100, 1e9):
        answer = ledger.at(second).claim(request(), SETTINGS)
        assert isinstance(answer, AlreadyDone)
        assert (answer.run.outcome, answer.run.fencing_token) == ("success", 1)


def test_a_done_tick_is_done_even_while_another_one_runs(ledger: Ledger) -> None:
    ledger.done(0, request())
    ledger.claim(2, request(NEXT_TICK))
    assert isinstance(ledger.at(3).claim(request(), SETTINGS), AlreadyDone)


def test_a_tick_that_was_done_long_before_later_ones_is_done(ledger: Ledger) -> None:
    for second, key in enumerate(["a", "b", "c", "d"]):
        ledger.done(10 * second, request(key))
    assert isinstance(ledger.at(100).claim(request("a"), SETTINGS), AlreadyDone)


def test_a_failed_tick_may_be_tried_again(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    ledger.at(1).finish(claim, "failed", "no rows", 0)
    ledger.claim(2, request())
    assert ledger.outcomes() == [(1, 1, 1, "failed"), (2, 1, 2, "running")]


def test_a_tick_that_was_done_at_the_third_attempt_is_done(ledger: Ledger) -> None:
    for second in (0, 10):
        ledger.at(second + 1).finish(ledger.claim(second, request()), "failed", "no rows", 0)
    ledger.done(20, request())
    assert ledger.outcomes() == [(1, 1, 1, "failed"), (2, 1, 2, "failed"), (3, 1, 3, "success")]
    assert isinstance(ledger.at(30).claim(request(), SETTINGS), AlreadyDone)


@pytest.mark.parametrize("second", [1, 31], ids=["lease valid", "lease lapsed"])
def test_a_restarted_pod_with_the_same_name_is_not_taken_for_its_predecessor(ledger: Ledger, second: float) -> None:
    """Even if everything else about its node is the same: who has a claim is an owner, not a node."""
    old = ledger.claim(0, request(node="pod-0/boot/1-1"))
    answer = ledger.at(second).claim(request(node="pod-0/boot/1-1"), SETTINGS)
    if second < 30:
        assert answer == Busy(JOB, TICK, old.attempt, retry_after=29)
    else:
        assert isinstance(answer, Claim)
        assert answer.attempt.fencing_token == 2
        assert not ledger.at(second).renew(old, 30)


# takeover


def test_a_lapsed_lease_is_taken_over_and_the_old_attempt_closed(ledger: Ledger) -> None:
    old = ledger.claim(0, request(node="node-b"))
    new = ledger.claim(30.001, request())
    assert new.took_over is not None
    assert (new.took_over.owner, new.took_over.outcome) == (old.attempt.owner, "taken_over")
    assert new.took_over.error == "its lease lapsed; taken over by node-a"
    assert ledger.outcomes() == [(1, 1, 1, "taken_over"), (2, 1, 2, "running")]


def test_a_lease_is_not_taken_over_a_moment_too_soon(ledger: Ledger) -> None:
    ledger.claim(0, request())
    assert isinstance(ledger.at(30).claim(request(), SETTINGS), Busy)


def test_what_a_stale_attempt_reports_changes_nothing(ledger: Ledger) -> None:
    old = ledger.claim(0, request())
    new = ledger.claim(31, request())
    assert ledger.at(32).finish(old, "success", None, 0) == "taken_over"
    assert not ledger.at(32).renew(old, 30)
    (status,) = ledger.at(32).status(JOB)
    assert (status.status, status.owner, status.fencing_token) == ("running", new.attempt.owner, 2)
    assert status.last_run_at is None
    assert ledger.at(33).finish(new, "success", None, 0) == "success"


@pytest.mark.parametrize("wrong", [{"fencing_token": 7}, {"owner": "another"}], ids=str)
def test_token_and_owner_both_count(ledger: Ledger, wrong: dict[str, Any]) -> None:
    """A Postgres that forgot what it had confirmed may issue a token once more."""
    claim = ledger.claim(0, request())
    forged = Claim(replace(claim.attempt, **wrong))
    assert ledger.at(1).finish(forged, "success", None, 0) is None
    assert not ledger.at(1).renew(forged, 30)
    assert ledger.outcomes() == [(1, 1, 1, "running")]
    assert ledger.at(1).status(JOB)[0].status == "running"


def test_a_renewed_lease_counts_from_its_renewal(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    assert ledger.at(20).renew(claim, 30)
    assert isinstance(ledger.at(49).claim(request(), SETTINGS), Busy)
    assert ledger.claim(51, request())


def test_a_renewal_that_arrives_late_does_not_shorten_the_lease(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    assert ledger.at(20).renew(claim, 30)
    assert ledger.at(10).renew(claim, 30)
    assert isinstance(ledger.at(49).claim(request(), SETTINGS), Busy)


def test_a_lapsed_lease_that_nobody_took_can_be_renewed(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    assert ledger.at(60).renew(claim, 30)
    assert isinstance(ledger.at(61).claim(request(), SETTINGS), Busy)


def test_status_says_when_a_runner_is_silent(ledger: Ledger) -> None:
    ledger.claim(0, request())
    assert [ledger.at(second).status(JOB)[0].lapsed for second in (1, 31)] == [False, True]


# finish


@pytest.mark.parametrize(("outcome", "error"), [("success", None), ("failed", ODD)])
def test_finish_closes_row_and_ledger(ledger: Ledger, outcome: str, error: str | None) -> None:
    claim = ledger.claim(0, request())
    assert ledger.at(5).finish(claim, outcome, error, 0) == outcome
    (status,) = ledger.at(5).status(JOB)
    assert (status.status, status.node_id, status.run_key) == (outcome, "node-a", TICK)
    assert status.last_run_at is not None
    assert (status.last_run_at - START).total_seconds() == 5
    assert status.lease_expires_at is None
    (run,) = ledger.at(5).history(JOB, TICK, 10)
    assert run.outcome == outcome
    assert run.finished_at == status.last_run_at
    assert run.error == (error and KEPT)


def test_finish_sent_twice_is_one_finish(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    assert [ledger.at(5).finish(claim, "success", None, 0), ledger.at(9).finish(claim, "success", None, 0)] == [
        "success"
    ] * 2
    (run,) = ledger.at(9).history(JOB, TICK, 10)
    assert run.finished_at is not None
    assert (run.finished_at - START).total_seconds() == 5


def test_the_first_result_counts(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    ledger.at(5).finish(claim, "failed", "killed", 0)
    assert ledger.at(6).finish(claim, "success", None, 0) == "failed"
    assert ledger.outcomes() == [(1, 1, 1, "failed")]


def test_only_success_and_failed_are_results(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    with pytest.raises(InvalidSetting, match="outcome='done'"):
        ledger.at(1).finish(claim, "done", None, 0)


def test_hold_at_least_keeps_everybody_out_until_its_end(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    ledger.at(5).finish(claim, "success", None, 60)
    assert ledger.at(20).claim(request(NEXT_TICK), SETTINGS) == Busy(
        JOB, NEXT_TICK, None, 40, "held back by hold_at_least"
    )
    assert isinstance(ledger.at(20).claim(request(), SETTINGS), AlreadyDone)
    assert ledger.claim(60, request(NEXT_TICK))


# generations


def test_rerun_is_a_new_generation_of_a_done_tick(ledger: Ledger) -> None:
    ledger.done(0, request())
    again = ledger.done(10, request(rerun=True))
    assert (again.attempt.generation, again.attempt.attempt) == (2, 1)
    assert isinstance(ledger.at(20).claim(request(), SETTINGS), AlreadyDone)
    assert ledger.outcomes() == [(1, 1, 1, "success"), (2, 2, 1, "success")]


def test_rerun_of_a_tick_that_was_never_done_is_its_first_generation(ledger: Ledger) -> None:
    assert ledger.claim(0, request(rerun=True)).attempt.generation == 1


def test_rerun_does_not_push_a_runner_aside(ledger: Ledger) -> None:
    ledger.done(0, request())
    ledger.claim(2, request(rerun=True))
    assert isinstance(ledger.at(3).claim(request(rerun=True), SETTINGS), Busy)


def test_a_generation_that_failed_is_tried_again_without_being_asked_for_once_more(ledger: Ledger) -> None:
    ledger.done(0, request())
    claim = ledger.claim(10, request(rerun=True))
    ledger.at(11).finish(claim, "failed", "no rows", 0)
    retried = ledger.claim(12, request())
    assert (retried.attempt.generation, retried.attempt.attempt) == (2, 2)


def test_a_task_cleared_after_airflow_showed_its_success_runs_again(ledger: Ledger) -> None:
    ledger.done(0, request(source=TASK))
    ledger.at(2).confirm(request(source=TASK))
    cleared = replace(TASK, try_number=2, cleared_tries=1)
    assert ledger.claim(10, request(source=cleared)).attempt.generation == 2


def test_a_retry_of_a_success_that_airflow_never_showed_finds_it_done(ledger: Ledger) -> None:
    ledger.done(0, request(source=TASK))
    for retry in (replace(TASK, try_number=2), replace(TASK, try_number=2, cleared_tries=1)):
        answer = ledger.at(10).claim(request(source=retry), SETTINGS)
        assert isinstance(answer, AlreadyDone)
        assert answer.by_own_attempt


def test_a_success_keeps_its_result_for_its_own_task_instance_alone(ledger: Ledger) -> None:
    result = json.dumps({"returned": "odd \x00 \ud83d ' %s"})
    claim = ledger.claim(0, request(source=TASK))
    assert ledger.at(1).finish(claim, "success", None, 0, result=result) == "success"
    assert ledger.at(2).finish(claim, "success", None, 0, result="another") == "success"
    for source, given in ((replace(TASK, try_number=2), result), (replace(TASK, map_index=3), None), (Source(), None)):
        for ask in (ledger.at(3).look, lambda asked: ledger.at(3).claim(asked, SETTINGS)):
            answer = ask(request(source=source))
            assert isinstance(answer, AlreadyDone)
            assert (answer.by_own_attempt, answer.result) == (given is not None, given)


def test_a_result_that_came_too_late_is_not_kept(ledger: Ledger) -> None:
    old = ledger.claim(0, request(source=TASK))
    new = ledger.claim(31, request(source=TASK))
    assert ledger.at(32).finish(old, "success", None, 0, result="{}") == "taken_over"
    ledger.at(33).finish(new, "success", None, 0)
    answer = ledger.at(34).look(request(source=TASK))
    assert isinstance(answer, AlreadyDone)
    assert answer.result is None


def test_a_confirmed_success_that_nobody_cleared_is_done(ledger: Ledger) -> None:
    ledger.done(0, request(source=TASK))
    ledger.at(2).confirm(request(source=TASK))
    assert isinstance(ledger.at(3).claim(request(source=replace(TASK, try_number=2)), SETTINGS), AlreadyDone)


def test_clearing_once_runs_again_once(ledger: Ledger) -> None:
    ledger.done(0, request(source=TASK))
    ledger.at(2).confirm(request(source=TASK))
    cleared = replace(TASK, try_number=2, cleared_tries=1)
    ledger.done(10, request(source=cleared))
    ledger.at(12).confirm(request(source=cleared))
    assert isinstance(ledger.at(13).claim(request(source=cleared), SETTINGS), AlreadyDone)
    twice = replace(TASK, try_number=3, cleared_tries=2)
    assert ledger.claim(20, request(source=twice)).attempt.generation == 3


STRANGERS: list[dict[str, Any]] = [
    {"deployment": "mini"},
    {"dag_id": "trains"},
    {"run_id": "scheduled__2"},
    {"task_id": "unload"},
    {"map_index": 3},
]


@pytest.mark.parametrize("another", STRANGERS, ids=str)
def test_clearing_another_task_instance_repeats_nothing(ledger: Ledger, another: dict[str, Any]) -> None:
    ledger.done(0, request(source=TASK))
    ledger.at(2).confirm(request(source=TASK))
    stranger = replace(TASK, try_number=2, cleared_tries=1, **another)
    assert isinstance(ledger.at(10).claim(request(source=stranger), SETTINGS), AlreadyDone)


@pytest.mark.parametrize("another", STRANGERS, ids=str)
def test_what_airflow_shows_of_another_task_instance_confirms_nothing(ledger: Ledger, another: dict[str, Any]) -> None:
    ledger.done(0, request(source=TASK))
    ledger.at(2).confirm(request(source=replace(TASK, **another)))
    cleared = replace(TASK, try_number=2, cleared_tries=1)
    assert isinstance(ledger.at(10).claim(request(source=cleared), SETTINGS), AlreadyDone)


def test_what_airflow_shows_before_there_is_a_success_confirms_nothing(ledger: Ledger) -> None:
    claim = ledger.claim(0, request(source=TASK))
    ledger.at(1).confirm(request(source=TASK))
    ledger.at(2).finish(claim, "success", None, 0)
    cleared = replace(TASK, try_number=2, cleared_tries=1)
    assert isinstance(ledger.at(10).claim(request(source=cleared), SETTINGS), AlreadyDone)


def test_a_confirmation_that_comes_late_does_not_take_back_that_of_a_later_try(ledger: Ledger) -> None:
    ledger.done(0, request(source=TASK))
    for shown in (2, 1):
        ledger.at(2).confirm(request(source=replace(TASK, try_number=shown)))
    retry = replace(TASK, try_number=3, cleared_tries=1)
    assert isinstance(ledger.at(10).claim(request(source=retry), SETTINGS), AlreadyDone)


def test_what_was_no_task_instance_cannot_be_cleared(ledger: Ledger) -> None:
    ledger.done(0, request())
    ledger.at(2).confirm(request())
    assert isinstance(ledger.at(10).claim(request(), SETTINGS), AlreadyDone)


# locks that were left


@pytest.mark.parametrize(
    ("second", "seconds_left", "left"),
    [
        pytest.param(61, 61.5, True, id="lapsed, and longer than its owner has ever set it"),
        pytest.param(61, 60, False, id="lapsed, or this server's clock was set forward"),
        pytest.param(59, 3600, False, id="its runner lives, and sets it right"),
    ],
)
@pytest.mark.parametrize("renew", [True, False])
def test_a_lock_that_outlasts_a_lapsed_lease_is_left(
    ledger: Ledger, renew: bool, second: float, seconds_left: float, left: bool
) -> None:
    asked = request()
    ledger.claim(0, asked, ttl=60, renew=renew)
    for longest in (30, 300):
        assert ledger.at(second).left_behind(LockAnswer(False, asked.owner, seconds_left), longest) is left


def test_a_lock_whose_owner_has_ended_is_left(ledger: Ledger) -> None:
    asked, refused = request(), request(NEXT_TICK)
    lock = LockAnswer(False, asked.owner, 0.1)
    claim = ledger.claim(0, asked)
    assert not ledger.at(1).left_behind(lock, 30)
    ledger.at(1).finish(claim, "failed", None, 0)
    assert ledger.at(1).left_behind(lock, 30)
    ledger.at(1).withdraw(refused, "told to stop")
    assert ledger.at(1).left_behind(replace(lock, owner=refused.owner), 30)


@pytest.mark.parametrize(("seconds_left", "left"), [(29.9, False), (31.5, True)])
def test_the_lock_of_an_asker_is_left_when_it_lasts_too_long(ledger: Ledger, seconds_left: float, left: bool) -> None:
    assert ledger.at(0).left_behind(LockAnswer(False, "somebody who asks", seconds_left), 30) is left


# release by hand, history, refusals


def test_a_person_ends_the_running_attempt(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    ended = ledger.at(5).release(JOB, claim.attempt.owner, "node-a burns")
    assert ended is not None
    assert (ended.owner, ended.outcome, ended.error) == (claim.attempt.owner, "released", "node-a burns")
    assert not ledger.at(6).renew(claim, 30)
    assert ledger.at(6).finish(claim, "success", None, 0) == "released"
    assert ledger.claim(6, request()).attempt.fencing_token == 2


def test_any_reason_for_a_release_can_be_noted(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    ended = ledger.at(5).release(JOB, claim.attempt.owner, ODD)
    assert ended is not None
    assert ended.error == KEPT


def test_a_release_sent_twice_gives_the_attempt_twice(ledger: Ledger) -> None:
    owner = ledger.claim(0, request()).attempt.owner
    first, second = ledger.at(5).release(JOB, owner, "node-a burns"), ledger.at(6).release(JOB, owner, "node-a burns")
    assert first == second
    assert first is not None
    assert first.finished_at is not None
    assert (first.finished_at - START).total_seconds() == 5


def test_a_release_sent_again_leaves_the_attempt_that_came_after_alone(ledger: Ledger) -> None:
    owner = ledger.claim(0, request()).attempt.owner
    ended = ledger.at(5).release(JOB, owner, "node-a burns")
    successor = ledger.claim(6, request())
    assert ledger.at(7).release(JOB, owner, "node-a burns") == ended
    assert ledger.outcomes() == [(1, 1, 1, "released"), (2, 1, 2, "running")]
    assert ledger.at(7).renew(successor, 30)
    ledger.at(8).finish(successor, "success", None, 600)
    assert ledger.at(9).release(JOB, owner, "node-a burns") == ended
    assert isinstance(ledger.at(9).claim(request(NEXT_TICK), SETTINGS), Busy), "its hold_at_least isn't ended either"


def test_releasing_what_nobody_runs_changes_nothing(ledger: Ledger) -> None:
    assert ledger.at(0).release(JOB, "nobody", "to be sure") is None
    owner = ledger.done(0, request()).attempt.owner
    assert ledger.at(2).release(JOB, owner, "to be sure") is None
    assert ledger.at(2).status(JOB)[0].status == "success"


def test_release_ends_hold_at_least_too(ledger: Ledger) -> None:
    claim = ledger.claim(0, request())
    ledger.at(1).finish(claim, "success", None, 600)
    assert ledger.at(2).release(JOB, claim.attempt.owner, "no need to wait") is None
    assert ledger.claim(3, request(NEXT_TICK))


def test_history_is_newest_first_by_job_and_tick(ledger: Ledger) -> None:
    for second, key in enumerate(["a", "b", "a"]):
        ledger.done(10 * second, request(key, rerun=True))
    ledger.done(40, request("a", job="another"))
    assert [run.fencing_token for run in ledger.statuses.history(JOB, None, 10)] == [3, 2, 1]
    assert [run.fencing_token for run in ledger.statuses.history(JOB, "a", 10)] == [3, 1]
    assert [run.fencing_token for run in ledger.statuses.history(JOB, None, 1)] == [3]


def test_status_lists_all_jobs_by_name(ledger: Ledger) -> None:
    for name in ("b", "a"):
        ledger.claim(0, request(job=name))
    assert [status.job_name for status in ledger.at(1).status(None)] == ["a", "b"]
    ledger.at(0).withdraw(request(job="c"), "asked and didn't hear")
    assert [status.job_name for status in ledger.at(1).status(None)] == ["a", "b"]
    assert ledger.at(1).status("c") == []


def test_status_lists_what_is_searched_for_page_by_page(ledger: Ledger) -> None:
    for name in ("Backup 100%", "backup_daily", "restore", "the last backup"):
        ledger.done(0, request(job=name))
    found: list[str] = []
    while page := ledger.at(2).status(None, search="BACKUP", after=found[-1] if found else None, limit=2):
        assert len(page) <= 2
        found += [row.job_name for row in page]
    assert found == ["Backup 100%", "backup_daily", "the last backup"]
    assert [row.job_name for row in ledger.at(2).status(None, search="0%")] == ["Backup 100%"]
    assert ledger.at(2).status(None, search=ODD, after=ODD) == []


def test_status_tells_where_the_attempt_came_from_and_what_keeps_others_out(ledger: Ledger) -> None:
    claim = ledger.claim(0, request(source=TASK))
    (row,) = ledger.at(1).status(JOB)
    assert (row.source, row.hold_until) == (TASK, None)
    ledger.at(1).finish(claim, "success", None, 60)
    (row,) = ledger.at(2).status(JOB)
    assert row.hold_until is not None
    assert row.hold_until > START
    (row,) = ledger.at(100).status(JOB)
    assert row.hold_until is None


def test_status_knows_no_source_of_what_the_ledger_has_forgotten(
    ledger: Ledger, connection: psycopg.Connection
) -> None:
    ledger.done(0, request(source=TASK))
    connection.execute("DELETE FROM exclusive.scheduled_job_run")
    (row,) = ledger.at(2).status(JOB)
    assert row.source == Source()


def test_history_goes_on_before_a_token(ledger: Ledger) -> None:
    for second in range(5):
        ledger.done(second * 2, request(f"tick {second}"))
    seen = ledger.at(20).history(JOB, None, 2)
    while page := ledger.at(20).history(JOB, None, 2, before=seen[-1].fencing_token):
        seen = [*seen, *page]
    assert [run.fencing_token for run in seen] == [5, 4, 3, 2, 1]


def test_a_refusal_is_noted_once_with_who_asked_and_why(ledger: Ledger) -> None:
    asked = request(source=replace(TASK, map_index=3))
    for _ in range(2):
        ledger.at(7).refuse(asked, "busy", "busy: %s has it")
    (refusal,) = ledger.statuses.refusals(JOB, None, 10)
    assert (refusal.run_key, refusal.reason, refusal.node_id) == (TICK, "busy", "node-a")
    assert refusal.detail == "busy: %s has it"
    assert (refusal.refused_at - START).total_seconds() == 7
    assert refusal.source == asked.source
    assert ledger.statuses.refusals(JOB, NEXT_TICK, 10) == []


def test_any_detail_of_a_refusal_can_be_noted(ledger: Ledger) -> None:
    ledger.at(7).refuse(request(), "busy", ODD)
    assert [refusal.detail for refusal in ledger.statuses.refusals(JOB, None, 10)] == [KEPT]


def test_a_node_of_any_name_can_run_a_job(ledger: Ledger) -> None:
    ledger.claim(0, request(node="no\udcffde"))
    assert [status.node_id for status in ledger.at(1).status(JOB)] == ["no�de"]


def test_looking_changes_nothing(ledger: Ledger) -> None:
    assert ledger.at(0).look(request()) is None
    assert ledger.at(0).status(None) == []


def test_nothing_is_locked_for_a_session(ledger: Ledger, database: str, connection: psycopg.Connection) -> None:
    """A pooler in transaction mode would leave such a lock with whoever gets the connection next."""
    upgrade(database)
    released = ledger.claim(0, request()).attempt.owner
    ledger.at(1).release(JOB, released, "to be sure")
    done = ledger.done(2, request(source=TASK))
    ledger.at(3).confirm(request(source=TASK))
    ledger.at(3).claim(request(), SETTINGS)
    ledger.at(3).refuse(request(), "done", str(done))
    assert ledger.at(4).renew(ledger.claim(4, request(NEXT_TICK)), 30)
    locks = connection.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'").fetchall()
    assert locks == []


# races


def waiting_for_a_lock(watcher: psycopg.Connection) -> int:
    row = watcher.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@dataclass
class Waiting:
    """A claim that a thread makes while `ledger` works in a transaction of its own."""

    asked: Request = field(default_factory=request)
    answers: list[Any] = field(default_factory=list)

    @contextmanager
    def behind(self, ledger: Ledger, database: str, second: float, watcher: psycopg.Connection) -> Iterator[None]:
        """Do in the block what is to be committed when the claim has come to wait for it."""
        waiter = Ledger(database)
        asker = threading.Thread(target=lambda: self.answers.append(waiter.at(second).claim(self.asked, SETTINGS)))
        with psycopg.connect(database.split("?")[0]) as other:
            ledger.database._connection, kept = other, ledger.database._connection
            yield
            asker.start()
            eventually(lambda: waiting_for_a_lock(watcher) == 1)
            assert self.answers == []
            other.commit()
        ledger.database._connection = kept
        asker.join(20)
        waiter.close()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_claim_that_waits_for_the_finisher_of_its_tick_finds_it_done(
    ledger: Ledger, database: str, connection: psycopg.Connection, isolation: str
) -> None:
    claim, waiting = ledger.claim(0, request()), Waiting()
    wish = f"?options=-c%20default_transaction_isolation%3D{isolation.replace(' ', '%5C%20')}"
    isolated = database if isolation == "read committed" else database + wish
    with waiting.behind(ledger, isolated, 31, connection):
        assert ledger.at(1).finish(claim, "success", None, 0) == "success"
    assert [type(answer) for answer in waiting.answers] == [AlreadyDone]
    assert ledger.outcomes() == [(1, 1, 1, "success")]


def test_a_claim_that_waits_for_a_renewal_finds_the_runner(
    ledger: Ledger, database: str, connection: psycopg.Connection
) -> None:
    """Another version of the row with nothing new about who runs."""
    claim, waiting = ledger.claim(0, request()), Waiting()
    with waiting.behind(ledger, database, 31, connection):
        assert ledger.at(30).renew(claim, 30)
    assert [type(answer) for answer in waiting.answers] == [Busy]
    assert ledger.outcomes() == [(1, 1, 1, "running")]


def test_a_claim_that_had_to_wait_begins_when_it_is_made(
    ledger: Ledger, database: str, connection: psycopg.Connection
) -> None:
    claim, waiter, answers = ledger.claim(0, request()), Ledger(database), []
    asker = threading.Thread(target=lambda: answers.append(waiter.statuses.claim(request(), SETTINGS)))
    with psycopg.connect(database) as other:
        ledger.database._connection, kept = other, ledger.database._connection
        ledger.at(1).finish(claim, "failed", "no rows", 0)
        asker.start()
        eventually(lambda: waiting_for_a_lock(connection) == 1)
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        other.commit()
    ledger.database._connection = kept
    asker.join(20)
    waiter.close()
    assert row is not None
    (answer,) = answers
    assert isinstance(answer, Claim)
    assert answer.attempt.started_at > row[0]


def test_a_claim_that_never_finds_the_row_as_it_was_gives_up(ledger: Ledger, connection: psycopg.Connection) -> None:
    ledger.done(0, request())
    connection.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON exclusive.scheduled_job_status FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    impatient = Ledger(f"{connection.info.dsn} options='-c statement_timeout=5s'", retry_for=0)
    with pytest.raises(StoreUnavailable, match="changes faster than it can be claimed"):
        impatient.at(10).claim(request(NEXT_TICK), SETTINGS)
    impatient.close()


def test_a_claim_before_the_finisher_has_committed_finds_the_runner(ledger: Ledger, database: str) -> None:
    claim, early = ledger.claim(0, request()), Ledger(database)
    with psycopg.connect(database) as other:
        ledger.database._connection, kept = other, ledger.database._connection
        assert ledger.at(1).finish(claim, "success", None, 0) == "success"
        assert isinstance(early.at(2).claim(request(), SETTINGS), Busy)
    ledger.database._connection = kept
    assert isinstance(early.at(2).claim(request(), SETTINGS), AlreadyDone)
    early.close()


def test_a_claim_that_waits_for_a_takeover_finds_the_new_runner(
    ledger: Ledger, database: str, connection: psycopg.Connection
) -> None:
    ledger.claim(0, request())
    waiting = Waiting()
    with waiting.behind(ledger, database, 31, connection):
        winner = ledger.claim(31, request(node="node-b"))
    (answer,) = waiting.answers
    assert isinstance(answer, Busy)
    assert answer.holder is not None
    assert answer.holder.owner == winner.attempt.owner


def test_a_claim_that_waits_for_a_release_by_hand_is_the_next_attempt_and_no_takeover(
    ledger: Ledger, database: str, connection: psycopg.Connection
) -> None:
    claim, waiting = ledger.claim(0, request()), Waiting()
    with waiting.behind(ledger, database, 31, connection):
        assert ledger.at(30).release(JOB, claim.attempt.owner, "node-a burns")
    (answer,) = waiting.answers
    assert isinstance(answer, Claim)
    assert (answer.attempt.owner, answer.took_over) == (waiting.asked.owner, None)
    assert ledger.outcomes() == [(1, 1, 1, "released"), (2, 1, 2, "running")]


def test_a_first_claim_of_a_job_that_waits_for_anothers_first_claim_finds_the_runner(
    ledger: Ledger, database: str, connection: psycopg.Connection
) -> None:
    """There is no row to wait for yet: it waits to add the job's."""
    waiting = Waiting()
    with waiting.behind(ledger, database, 1, connection):
        first = ledger.claim(0, request(node="node-b"))
    (answer,) = waiting.answers
    assert isinstance(answer, Busy)
    assert answer.holder is not None
    assert answer.holder.owner == first.attempt.owner
    assert ledger.outcomes() == [(1, 1, 1, "running")]


@pytest.mark.parametrize("runs", [0, 1], ids=["a job's first claim", "a later one"])
def test_a_claim_that_waits_for_its_own_copy_is_the_same_claim(
    ledger: Ledger, database: str, connection: psycopg.Connection, runs: int
) -> None:
    for _ in range(runs):
        ledger.done(-10, request(NEXT_TICK))
    waiting = Waiting()
    with waiting.behind(ledger, database, 0, connection):
        claim = ledger.claim(0, waiting.asked)
    assert waiting.answers == [claim]
    assert ledger.outcomes()[runs:] == [(runs + 1, 1, 1, "running")]


def test_two_copies_of_a_claim_at_once_are_one_claim(ledger: Ledger, database: str) -> None:
    ledgers = [Ledger(database), Ledger(database)]
    together = threading.Barrier(len(ledgers))
    rounds = [request(f"tick {number}") for number in range(20)]
    answers: list[list[object]] = [[] for _ in ledgers]

    def ask(own: Ledger, got: list[object]) -> None:
        for second, asked in enumerate(rounds):
            together.wait(20)
            got.append(own.at(100 * second).claim(asked, SETTINGS))  # whose lease has lapsed by the next round

    askers = [threading.Thread(target=ask, args=pair) for pair in zip(ledgers, answers, strict=True)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    for own in ledgers:
        own.close()
    assert answers[0] == answers[1]
    assert [answer.attempt.owner for answer in answers[0] if isinstance(answer, Claim)] == [
        asked.owner for asked in rounds
    ]
    ended = [(token, 1, 1, "taken_over") for token in range(1, len(rounds))]
    assert ledger.outcomes() == [*ended, (len(rounds), 1, 1, "running")]


def test_the_indexes_let_nobody_run_twice_whatever_the_statements_do(
    ledger: Ledger, connection: psycopg.Connection
) -> None:
    ledger.claim(0, request())
    copy = """
        INSERT INTO exclusive.scheduled_job_run
            (job_name, run_key, generation, attempt, fencing_token, owner, node_id, outcome, started_at,
             lease_seconds, renewed)
        SELECT job_name, run_key, generation, attempt, fencing_token + %s, owner || %s, node_id, outcome, started_at,
            lease_seconds, renewed
        FROM exclusive.scheduled_job_run
    """
    with pytest.raises(psycopg.errors.UniqueViolation, match="one_running"):
        connection.execute(copy, [1, "x"])
    connection.execute("UPDATE exclusive.scheduled_job_run SET outcome = 'success'")
    with pytest.raises(psycopg.errors.UniqueViolation, match="one_success"):
        connection.execute(copy, [1, "x"])
    connection.execute("UPDATE exclusive.scheduled_job_run SET outcome = 'failed'")
    with pytest.raises(psycopg.errors.UniqueViolation, match="_pkey"):
        connection.execute(copy, [0, "x"])
    with pytest.raises(psycopg.errors.UniqueViolation, match="owner"):
        connection.execute(copy, [1, ""])


def test_a_second_success_of_a_generation_is_an_error_and_no_success(
    ledger: Ledger, connection: psycopg.Connection
) -> None:
    ledger.done(0, request())
    claim = ledger.claim(5, request(rerun=True))
    connection.execute("UPDATE exclusive.scheduled_job_run SET generation = 1")
    with pytest.raises(ExclusiveError, match="one_success"):
        ledger.at(6).finish(claim, "success", None, 0)
    assert ledger.outcomes()[-1][-1] == "running"
    assert ledger.at(6).status(JOB)[0].status == "running"
