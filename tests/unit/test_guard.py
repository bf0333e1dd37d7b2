"""The protocol: what is asked of whom, in which order, and what is left behind when somebody says no or nothing."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import pytest

from airflow_exclusive.core.admission import Admitted, AlreadyDone, Busy
from airflow_exclusive.core.errors import (
    InvalidSetting,
    NotAdmitted,
    StaleWrite,
    StoreMisconfigured,
    StoreUnavailable,
)
from airflow_exclusive.core.job import Source
from airflow_exclusive.core.patience import IN_PASSING, Elsewhere
from airflow_exclusive.core.ports import JobStatus
from airflow_exclusive.core.settings import LeaseSettings
from tests.support.fakes import CLAIMED, TASK, TICK, World, attempt, busy, done, row, world

JOB = "backup_daily"
DOWN = StoreUnavailable("nobody answers")


def admit(of: World, **changes: Any) -> Any:
    return of.guard.admit(JOB, **{"run_key": TICK, **changes})


def lease_of(of: World, **changes: Any) -> Any:
    admission = admit(of, **changes)
    assert isinstance(admission, Admitted)
    return admission.lease


# admission


def test_who_waits_elsewhere_is_sent_away_and_nothing_is_recorded() -> None:
    asked = world(busy())
    answer = admit(asked, wait=math.inf, elsewhere=Elsewhere())
    assert isinstance(answer, Busy)
    assert answer.wait_left == math.inf
    assert (asked.locks.waits, asked.statuses.refused) == ([], [])


def test_it_stays_for_what_takes_a_moment_only() -> None:
    asked = world(CLAIMED, looks=[None])
    asked.locks.holder = "somebody in passing"
    asked.locks.freed_by_wait = 3
    assert isinstance(admit(asked, elsewhere=Elsewhere()), Admitted)


def test_a_lock_in_passing_that_takes_longer_is_waited_for_elsewhere() -> None:
    asked = world(looks=[None])
    asked.locks.holder = "somebody who never claims"
    answer = admit(asked, ttl=30, elsewhere=Elsewhere(waited=10))
    assert 27 < answer.wait_left < 28.1
    assert sum(asked.locks.waits) < 3
    assert asked.statuses.refused == []


def test_who_comes_back_and_meets_one_once_more_after_a_ttl_does_not_leave_for_it_again() -> None:
    asked = world(looks=[None])
    asked.locks.holder = "somebody who never claims"
    last = admit(asked, ttl=30, elsewhere=Elsewhere(waited=31))
    assert (last.wait_left, asked.statuses.refused) == (0, [("busy", str(last))])
    assert sum(asked.locks.waits) == pytest.approx(30, abs=1)


@pytest.mark.parametrize("elsewhere", [None, Elsewhere(waited=9999)])
def test_a_lock_in_passing_turns_nobody_away_who_has_waited_for_an_own_attempt(elsewhere: Elsewhere | None) -> None:
    own = busy(attempt(source=TASK), retry_after=0.5)
    asked = world(CLAIMED, looks=[*[own] * 4, None])
    asked.locks.holder, asked.locks.freed_by_wait = "somebody in passing", 7
    assert isinstance(admit(asked, ttl=1, source=replace(TASK, try_number=2), elsewhere=elsewhere), Admitted)
    assert asked.statuses.refused == []


def test_patience_counts_from_the_first_ask() -> None:
    asked = world(busy())
    assert admit(asked, wait=60, elsewhere=Elsewhere(waited=20)).wait_left == 40
    assert admit(asked, wait=60, elsewhere=Elsewhere(waited=61)).wait_left == 0


def test_an_own_attempt_is_waited_for_elsewhere_without_end_whatever_the_policy() -> None:
    asked = world(busy(attempt(source=TASK)))
    answer = admit(asked, wait=0, source=replace(TASK, try_number=2), elsewhere=Elsewhere(waited=9999))
    assert answer.wait_left == math.inf


def test_a_ticket_opens_a_lock_that_was_reserved_under_it() -> None:
    asked = world(CLAIMED)
    asked.locks.holder = "ticket"
    lease = admit(asked, elsewhere=Elsewhere(ticket="ticket")).lease
    assert asked.locks.holder == lease.owner != "ticket"


def test_the_gate_is_asked_before_the_truth_and_the_keeper_comes_last() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked)
    lease.finish()
    assert asked.calls.names == ["acquire", "claim", "keeper starts", "keeper stops", "finish", "unlock"]
    assert asked.locks.holder is None


@pytest.mark.parametrize("answer", [busy(), done()], ids=["busy", "done"])
def test_a_claim_that_is_refused_gives_the_lock_back(answer: Busy | AlreadyDone) -> None:
    asked = world(answer)
    assert admit(asked) == answer
    assert asked.calls.names == ["acquire", "claim", "unlock", "refuse"]
    assert asked.locks.holder is None
    assert asked.statuses.refused == [("busy" if isinstance(answer, Busy) else "done", str(answer))]


@pytest.mark.parametrize("error", [DOWN, StoreMisconfigured("no schema"), KeyboardInterrupt()], ids=repr)
def test_a_claim_that_fails_is_withdrawn_then_gives_the_lock_back_and_admits_nobody(error: BaseException) -> None:
    """The truth first: whoever is killed in the middle of it leaves a lock, which is short, and no lease."""
    asked = world(error)
    with pytest.raises(type(error)):
        admit(asked)
    unanswered = not isinstance(error, StoreMisconfigured)
    assert asked.calls.names == ["acquire", "claim", *["withdraw"] * unanswered, "unlock"]
    assert asked.locks.holder is None
    assert [owner for owner, _ in asked.statuses.withdrawn] == [asked.statuses.requests[0].owner] * unanswered


def test_what_cannot_even_be_withdrawn_is_the_error_that_came_first(caplog: pytest.LogCaptureFixture) -> None:
    asked = world(DOWN)
    asked.statuses.withdrawing = StoreUnavailable("still nobody answers")
    with caplog.at_level(logging.INFO), pytest.raises(StoreUnavailable, match=r"^nobody answers"):
        admit(asked)
    assert "still nobody answers" in caplog.text
    assert asked.locks.holder is None


def test_who_waits_asks_again_when_the_truth_answers_once_more_and_as_somebody_new() -> None:
    asked = world(DOWN, DOWN, CLAIMED)
    assert isinstance(admit(asked, wait=60), Admitted)
    owners = [request.owner for request in asked.statuses.requests]
    assert len(set(owners)) == 3
    assert [owner for owner, _ in asked.statuses.withdrawn] == owners[:2]


@pytest.mark.parametrize(
    ("wait", "elsewhere", "left"),
    [
        (math.inf, Elsewhere(), math.inf),
        (60, Elsewhere(waited=20), 40),
        (0, Elsewhere(waited=20), math.inf),  # else it would not have left: it waits for an attempt of its own
    ],
)
def test_who_waits_elsewhere_is_sent_away_while_the_truth_does_not_answer(
    wait: float, elsewhere: Elsewhere, left: float
) -> None:
    asked = world(DOWN)
    answer = admit(asked, elsewhere=elsewhere, wait=wait)
    assert isinstance(answer, Busy)
    assert (answer.holder, answer.wait_left, str(answer)) == (
        None,
        left,
        "busy: backup_daily is out of reach: nobody answers",
    )
    assert (asked.locks.waits, asked.statuses.refused, asked.locks.holder) == ([], [], None)
    assert [owner for owner, _ in asked.statuses.withdrawn] == [asked.statuses.requests[0].owner]


@pytest.mark.parametrize(("wait", "elsewhere"), [(0, Elsewhere()), (60, Elsewhere(waited=60))])
def test_who_has_no_patience_left_is_told_at_once_that_the_truth_does_not_answer(
    wait: float, elsewhere: Elsewhere
) -> None:
    asked = world(DOWN)
    with pytest.raises(StoreUnavailable):
        admit(asked, elsewhere=elsewhere, wait=wait)
    assert asked.locks.waits == []


def test_who_waits_for_an_own_attempt_asks_on_while_the_truth_does_not_answer() -> None:
    asked = world(busy(attempt(source=TASK)), DOWN, DOWN, CLAIMED)
    assert isinstance(admit(asked, source=replace(TASK, try_number=2)), Admitted)


def test_an_asker_that_is_refused_wakes_nobody() -> None:
    asked = world(busy())
    admit(asked)
    assert asked.locks.woke == [False]


def test_who_is_told_to_stop_while_it_asks_for_the_lock_leaves_none_behind() -> None:
    asked = world(CLAIMED)

    def stopped(_job_name: str, owner: str, *_: object) -> None:
        asked.locks.holder = owner
        raise KeyboardInterrupt

    asked.locks.acquire = stopped  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        admit(asked)
    assert asked.locks.holder is None


def test_who_is_told_to_stop_before_it_asks_for_the_lock_again_leaves_none_behind() -> None:
    asked = world(CLAIMED)

    def unheard(_job_name: str, owner: str, *_: object) -> None:
        asked.locks.holder = owner
        raise DOWN

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    asked.locks.acquire = unheard  # type: ignore[method-assign, assignment]
    asked.locks.wait_for_release = stopped  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        admit(asked)
    assert asked.locks.holder is None


def test_a_keeper_that_cannot_start_gives_claim_and_lock_back() -> None:
    asked = world(CLAIMED)
    asked.keeper_fails = OSError("no more processes")
    with pytest.raises(OSError, match="no more processes"):
        admit(asked)
    assert asked.calls.names == ["acquire", "claim", "keeper starts", "finish", "unlock"]
    assert asked.statuses.finished[0][:2] == ("failed", "it could not begin: no more processes")


@pytest.mark.parametrize(("ttl", "asked_for"), [(10.0, [10.0]), (30.0, [30.0]), (3600.0, [30.0, 3600.0])])
def test_until_there_is_a_claim_a_lock_is_short(ttl: float, asked_for: list[float]) -> None:
    """Whoever is killed before the claim leaves nothing but the lock."""
    asked = world(CLAIMED)
    assert isinstance(admit(asked, ttl=ttl), Admitted)
    assert asked.locks.asked_for == asked_for


def test_a_lock_that_cannot_be_made_longer_is_no_reason_to_stop() -> None:
    asked = world(CLAIMED)

    def gone(*_: object) -> None:
        raise StoreUnavailable("Redis is away")

    start = asked.statuses.claim

    def claim(*request: Any) -> Any:
        asked.locks.acquire = gone  # type: ignore[method-assign, assignment]
        return start(*request)

    asked.statuses.claim = claim  # type: ignore[method-assign]
    assert isinstance(admit(asked, ttl=3600), Admitted)


def test_a_claim_that_was_answered_late_is_renewed_before_it_is_kept() -> None:
    asked = world(CLAIMED)
    asked.statuses.takes = 16
    assert isinstance(admit(asked, ttl=30), Admitted)
    assert asked.calls.names == ["acquire", "claim", "renew", "keeper starts"]
    assert asked.keeper.sent_at == asked.clock.now


def test_a_lease_whose_server_is_too_slow_to_keep_it_is_given_back() -> None:
    asked = world(CLAIMED)
    asked.statuses.takes = asked.statuses.renewing_takes = 16
    with pytest.raises(StoreUnavailable, match=r"took 16\.0 s to answer, too much of a lease of 30 s"):
        admit(asked, ttl=30)
    assert asked.calls.names == ["acquire", "claim", "renew", "finish", "unlock"]
    assert asked.locks.holder is None


def test_a_claim_that_lapsed_before_its_answer_came_is_asked_for_anew() -> None:
    asked = world(CLAIMED)
    asked.statuses.takes, asked.statuses.renewed = 40, [False]
    answer = admit(asked, ttl=30)
    assert isinstance(answer, Admitted)
    first, second = (one.owner for one in asked.statuses.requests)
    assert first != second
    assert answer.lease.owner == second


def test_a_lease_is_trusted_from_when_its_claim_was_sent() -> None:
    asked = world(CLAIMED)
    asked.statuses.takes = 10
    admit(asked, ttl=30)
    assert asked.keeper.sent_at == asked.clock.now - 10


def test_who_finds_the_lock_taken_does_not_claim() -> None:
    asked = world(looks=[busy()])
    asked.locks.holder = "somebody"
    assert admit(asked) == busy()
    assert asked.calls.names == ["acquire", "look", "refuse"]
    assert asked.locks.holder == "somebody"


def test_a_lock_without_a_claim_is_no_reason_to_turn_away() -> None:
    asked = world(CLAIMED, looks=[None])
    asked.locks.holder = "somebody who is asking for another tick"
    asked.locks.freed_by_wait = 3
    assert isinstance(admit(asked), Admitted)
    assert asked.statuses.refused == []
    assert max(asked.locks.waits) <= 0.1


def test_a_lock_without_a_claim_that_outlasts_a_ttl_is_busy() -> None:
    asked = world(looks=[None])
    asked.locks.holder = "somebody who never claims"
    began = asked.clock.now
    answer = admit(asked, ttl=30)
    assert isinstance(answer, Busy)
    assert (answer.holder, answer.reason) == (None, IN_PASSING)
    assert asked.clock.now - began >= 30


def test_a_lock_that_an_ended_attempt_left_behind_is_freed() -> None:
    asked = world(CLAIMED, looks=[None])
    asked.locks.holder, asked.statuses.runs = "somebody", [attempt(owner="another"), attempt(outcome="failed")]
    assert isinstance(admit(asked), Admitted)
    assert len(asked.locks.waits) == 1


def test_the_lock_of_an_attempt_that_has_just_begun_is_left_alone() -> None:
    asked = world(CLAIMED, looks=[None, busy()])
    asked.locks.holder, asked.statuses.runs = "somebody", [attempt()]
    assert admit(asked) == busy()
    assert asked.locks.holder == "somebody"


def test_a_tick_that_is_done_is_done_even_while_the_lock_is_taken() -> None:
    asked = world(looks=[done()])
    asked.locks.holder = "somebody"
    assert admit(asked) == done()


def test_a_cleared_success_is_given_time_to_be_confirmed() -> None:
    cleared = replace(TASK, try_number=2, cleared_tries=1)
    asked = world(replace(done(source=TASK), by_own_attempt=True), CLAIMED)
    assert isinstance(admit(asked, source=cleared), Admitted)
    assert asked.statuses.refused == []


def test_a_cleared_success_that_is_never_confirmed_is_done() -> None:
    cleared = replace(TASK, try_number=2, cleared_tries=1)
    answer = replace(done(source=TASK), by_own_attempt=True)
    asked = world(answer)
    began = asked.clock.now
    assert admit(asked, source=cleared) == answer
    assert asked.clock.now - began >= 10


def test_a_retry_is_told_of_its_own_success_at_once() -> None:
    answer = replace(done(source=TASK), by_own_attempt=True)
    asked = world(answer)
    assert admit(asked, source=replace(TASK, try_number=2)) == answer
    assert asked.locks.waits == []


def test_a_claim_that_lapsed_before_its_reply_is_asked_again_under_a_new_owner() -> None:
    asked = world(None, CLAIMED)
    lease = lease_of(asked)
    first, second = asked.statuses.requests
    assert first.owner != second.owner == lease.owner
    assert replace(first, owner="") == replace(second, owner="")
    assert asked.calls.names == ["acquire", "claim", "unlock", "acquire", "claim", "keeper starts"]


def test_a_request_without_a_run_key_is_a_tick_of_its_own() -> None:
    keys = {lease_of(world(CLAIMED), run_key=None).run_key for _ in range(3)}
    assert len(keys) == 3


def test_bad_arguments_are_refused_before_anybody_is_asked() -> None:
    asked = world()
    for bad in (
        {"run_key": ""},
        {"wait": -1},
        {"wait": -math.inf},
        {"wait": "long"},
        {"wait": math.nan},
        {"ttl": 0},
        {"ttl": 5, "settings": LeaseSettings()},
    ):
        with pytest.raises(InvalidSetting):
            admit(asked, **bad)
    with pytest.raises(InvalidSetting):
        asked.guard.admit("")
    assert asked.calls.names == []


# Redis down


def test_redis_down_admits_nobody_by_default() -> None:
    asked = world(CLAIMED)
    asked.locks.down = DOWN
    began = asked.clock.now
    with pytest.raises(StoreUnavailable):
        admit(asked)
    assert set(asked.calls.names[:-2]) == {"acquire", "wait"}
    assert asked.calls.names[-2:] == ["unlock", "refuse"]
    ((reason, _),) = asked.statuses.refused
    assert reason == "withdrawn"
    assert asked.clock.now - began == pytest.approx(10, abs=1)


def test_a_gate_that_answers_again_finds_the_same_owner() -> None:
    asked = world(CLAIMED)
    acquire, owners = asked.locks.acquire, []

    def away_at_first(job_name: str, owner: str, *rest: Any) -> Any:
        owners.append(owner)
        if len(owners) < 4:
            raise DOWN
        return acquire(job_name, owner, *rest)

    asked.locks.acquire = away_at_first  # type: ignore[method-assign]
    assert isinstance(admit(asked), Admitted)
    assert len(set(owners)) == 1
    assert asked.statuses.withdrawn == []


def test_who_waits_outlasts_a_gate_that_is_away() -> None:
    asked = world(CLAIMED)
    asked.locks.down, asked.locks.back_at = DOWN, asked.clock.now + 3600
    assert isinstance(admit(asked, wait=math.inf), Admitted)


def test_who_waits_elsewhere_is_sent_away_by_a_gate_that_stays_away() -> None:
    asked = world(CLAIMED)
    asked.locks.down = DOWN
    answer = admit(asked, wait=60, elsewhere=Elsewhere(waited=10))
    assert isinstance(answer, Busy)
    assert answer.wait_left == pytest.approx(40, abs=1)
    assert asked.statuses.requests == []


def test_a_result_counts_even_if_the_gate_refuses_the_user_meanwhile() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked)
    asked.locks.down = StoreMisconfigured("WRONGPASS")
    lease.finish()
    assert asked.statuses.finished == [("success", None, 0.0)]


def test_redis_down_lets_postgres_decide_where_that_was_chosen() -> None:
    asked = world(CLAIMED)
    asked.locks.down = DOWN
    lease = lease_of(asked, settings=LeaseSettings(on_redis_down="postgres"))
    lease.finish()
    assert asked.calls.names == ["acquire", "claim", "keeper starts", "keeper stops", "finish", "unlock"]


def test_redis_down_and_postgres_saying_no_is_no() -> None:
    asked = world(busy())
    asked.locks.down = DOWN
    assert admit(asked, settings=LeaseSettings(on_redis_down="postgres")) == busy()


# waiting


def test_nobody_waits_unless_asked_to() -> None:
    asked = world(busy())
    admit(asked)
    assert asked.locks.waits == []


def test_waiting_ends_with_the_last_answer_recorded_once() -> None:
    asked = world(busy(retry_after=3))
    assert admit(asked, wait=10) == busy(retry_after=3)
    assert sum(asked.locks.waits) == pytest.approx(10)
    assert asked.calls.names.count("refuse") == 1
    assert asked.calls.names[-1] == "refuse"


def test_who_waits_is_admitted_once_the_holder_has_gone() -> None:
    asked = world(busy(), busy(), CLAIMED)
    assert lease_of(asked, wait=math.inf)
    assert "refuse" not in asked.calls.names


def test_who_waits_learns_that_the_tick_was_done_meanwhile() -> None:
    assert admit(world(busy(), done()), wait=math.inf) == done()


@pytest.mark.parametrize(("retry_after", "pause"), [(0.0, 0.05), (1.5, 1.5), (3600.0, 5.0), (-4.0, 0.05)])
def test_a_waiter_asks_again_neither_at_once_nor_too_late(retry_after: float, pause: float) -> None:
    asked = world(busy(retry_after=retry_after), CLAIMED)
    admit(asked, wait=100)
    assert asked.locks.waits == [pause]


def test_an_own_earlier_attempt_is_waited_for_without_being_asked_to() -> None:
    own = busy(attempt(source=TASK))
    asked = world(own, own, done(source=TASK))
    answer = admit(asked, wait=0, source=replace(TASK, try_number=2))
    assert isinstance(answer, AlreadyDone)
    assert len(asked.locks.waits) == 2


def test_another_task_instance_is_not_waited_for() -> None:
    asked = world(busy(attempt(source=TASK)))
    admit(asked, wait=0, source=replace(TASK, run_id="scheduled__2"))
    assert asked.locks.waits == []


def test_a_waiter_keeps_its_owner_so_that_a_lost_reply_finds_its_own_claim() -> None:
    asked = world(busy(), busy(), CLAIMED)
    admit(asked, wait=100)
    assert len({request.owner for request in asked.statuses.requests}) == 1


# the end of a lease


@pytest.mark.parametrize("recorded", ["taken_over", "released", None])
def test_a_result_that_the_ledger_refuses_is_a_stale_write_and_is_recorded(recorded: str | None) -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked)
    asked.statuses.recorded = recorded
    with pytest.raises(StaleWrite, match=rf"\(success\) is refused: .* already ended as {recorded or 'nothing known'}"):
        lease.finish()
    assert [reason for reason, _ in asked.statuses.refused] == ["stale"]
    assert asked.locks.holder is None


def test_a_stale_attempt_leaves_the_lock_of_its_successor_alone() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked)
    asked.statuses.recorded, asked.locks.holder = "taken_over", "successor"
    with pytest.raises(StaleWrite):
        lease.finish()
    assert asked.locks.holder == "successor"


@pytest.mark.parametrize("error", [StoreUnavailable("nobody answers"), StoreMisconfigured("no privilege")], ids=repr)
def test_a_stale_write_is_told_though_it_cannot_be_recorded(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    asked = world(CLAIMED)
    lease = lease_of(asked)
    monkeypatch.setattr(asked.statuses, "refuse", fail)
    asked.effects.append(StaleWrite("token 1 is refused"))
    with pytest.raises(StaleWrite, match="token 1 is refused"), lease.transaction(object()):
        pass
    asked.statuses.recorded = "taken_over"
    with pytest.raises(StaleWrite, match="already ended as taken_over"):
        lease.finish()
    assert caplog.text.count(str(error)) == 2


def test_the_lock_is_given_back_even_if_the_truth_does_not_answer() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked)
    asked.statuses.recorded = DOWN
    with pytest.raises(StoreUnavailable):
        lease.finish()
    assert asked.locks.holder is None


def test_a_result_is_tried_to_be_recorded_for_as_long_as_a_lease_lasts() -> None:
    asked = world(CLAIMED)
    lease_of(asked, ttl=60).finish()
    assert asked.statuses.ttl == 60


def test_a_result_counts_even_if_the_gate_does_not_answer() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked)
    asked.locks.down = DOWN
    lease.finish()
    assert asked.statuses.finished == [("success", None, 0.0)]


def test_hold_at_least_keeps_the_lock_for_what_is_left_of_it() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked, settings=LeaseSettings(hold_at_least=60))
    asked.clock.now += 20
    lease.finish()
    assert asked.statuses.finished == [("success", None, 60)]
    assert asked.locks.kept_for == pytest.approx(40)


def test_a_failed_attempt_holds_nobody_up() -> None:
    asked = world(CLAIMED)
    lease_of(asked, settings=LeaseSettings(hold_at_least=60)).finish("failed", "no rows")
    assert asked.locks.holder is None
    assert asked.statuses.finished == [("failed", "no rows", 0.0)]


def test_hold_at_least_that_is_over_keeps_nothing() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked, settings=LeaseSettings(hold_at_least=60))
    asked.clock.now += 61
    lease.finish()
    assert asked.locks.holder is None


def test_a_stale_transaction_is_recorded_as_such() -> None:
    asked = world(CLAIMED)
    lease = lease_of(asked)
    asked.effects.append(StaleWrite("token 1 is refused"))
    with pytest.raises(StaleWrite), lease.transaction(object()):
        pass
    assert asked.statuses.refused == [("stale", "token 1 is refused")]


# the rest of the guard


def test_hold_finishes_the_lease_at_the_end_of_the_block() -> None:
    asked = world(CLAIMED)
    with asked.guard.hold(JOB, run_key=TICK) as lease:
        assert lease.token == 1
    assert asked.statuses.finished == [("success", None, 0.0)]


def test_hold_raises_the_answer_where_it_is_no() -> None:
    with pytest.raises(NotAdmitted, match="busy: backup_daily runs tick") as refused, world(busy()).guard.hold(JOB):
        pytest.fail("nobody was admitted")
    assert refused.value.admission == busy()


@pytest.mark.parametrize("verdict", [busy(), done(), None])
def test_peek_tells_without_taking_or_recording(verdict: Busy | AlreadyDone | None) -> None:
    asked = world(looks=[verdict])
    assert asked.guard.peek(JOB, run_key=TICK) == verdict
    assert asked.calls.names == ["look"]


def test_release_ends_the_attempt_before_it_frees_its_lock() -> None:
    asked = world()
    asked.statuses.rows, asked.locks.holder = [row(owner="somebody")], "somebody"
    ended = asked.guard.release(JOB, reason="node-b burns")
    assert ended is not None
    assert (ended.owner, ended.error) == ("somebody", "node-b burns")
    assert asked.calls.names == ["status", "release", "unlock"]
    assert asked.locks.holder is None


def test_release_leaves_the_lock_of_a_successor_alone() -> None:
    asked = world()
    asked.statuses.rows, asked.locks.holder = [row(owner="somebody")], "successor"
    assert asked.guard.release(JOB, reason="node-b burns")
    assert asked.locks.holder == "successor"


@pytest.mark.parametrize("rows", [[], [row("success", "who has it")], [row("failed", "another")]], ids=str)
def test_release_frees_a_lock_that_was_left_where_nobody_runs(rows: list[JobStatus]) -> None:
    asked = world()
    asked.statuses.rows, asked.locks.holder = rows, "who has it"
    assert asked.guard.release(JOB, reason="to be sure") is None
    assert asked.locks.holder is None


def test_release_leaves_a_lock_alone_whose_attempt_has_begun_meanwhile() -> None:
    asked = world()
    asked.statuses.rows, asked.locks.holder = [row("failed", "another"), row("running", "successor")], "successor"
    assert asked.guard.release(JOB, reason="to be sure") is None
    assert asked.locks.holder == "successor"


@pytest.mark.parametrize("rows", [[], [row("running", "successor")], [row("success", "successor")]], ids=str)
def test_release_of_a_token_leaves_whoever_came_after_it_and_his_lock_alone(rows: list[JobStatus]) -> None:
    asked = world()
    asked.statuses.rows, asked.locks.holder = rows, "successor"
    assert asked.guard.release(JOB, reason="too late", token=0) is None
    assert (asked.calls.names, asked.locks.holder) == (["status"], "successor")


def test_release_of_a_token_ends_its_attempt() -> None:
    asked = world()
    asked.statuses.rows, asked.locks.holder = [row(owner="somebody")], "somebody"
    assert asked.guard.release(JOB, reason="node-b burns", token=asked.statuses.rows[0].fencing_token)
    assert asked.locks.holder is None


@pytest.mark.parametrize(("status", "ends"), [("running", True), ("success", False)])
def test_release_counts_even_if_the_gate_does_not_answer(status: str, ends: bool) -> None:
    asked = world()
    asked.statuses.rows, asked.locks.down = [row(status)], DOWN
    assert bool(asked.guard.release(JOB, reason="node-b burns")) == ends
    assert "release" in asked.calls.names


def test_the_node_and_the_source_are_passed_on() -> None:
    asked = world(CLAIMED, node_id="node-a")
    admit(asked, source=TASK, rerun=True)
    (request,) = asked.statuses.requests
    assert (request.node_id, request.source, request.rerun) == ("node-a", TASK, True)
    assert (request.job_name, request.run_key) == (JOB, TICK)


def test_the_command_line_is_no_task_instance() -> None:
    asked = world(busy(attempt(source=Source())))
    admit(asked, wait=0)
    assert asked.locks.waits == []
