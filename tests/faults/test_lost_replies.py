"""Requests and replies that get lost, come twice or late, at every step of the protocol: the tick is done once."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

import psycopg
import pytest

from airflow_exclusive.core.admission import Admitted, AlreadyDone, Busy
from airflow_exclusive.core.errors import StaleWrite, StoreUnavailable
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.patience import Elsewhere
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.node import clock
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, statement
from airflow_exclusive.stores.redis.address import Address
from airflow_exclusive.stores.redis.scripts import digest, lock_key, lua
from tests.contract import test_standby  # noqa: F401 - what it disturbs is to be known
from tests.support.disturbed import DISTURBED, disturbed
from tests.support.jobs import JobProcess, alive
from tests.support.ledger import JOB, NEXT_TICK, TASK, TICK, Ledger, request
from tests.support.proxied_node import TTL, Proxied, heard, proxied, settings
from tests.support.proxy import (
    COPIED,
    DUPLICATED,
    FOR_EVER,
    HANGING,
    HELD,
    REPLY_LOST,
    REQUEST_LOST,
    UNHEARD,
    Fault,
    Matches,
    script,
    sql,
    words,
)
from tests.support.told import told_to_stop
from tests.support.waiting import eventually

REDIS_STEPS = {"acquire": script("acquire"), "release": script("release")}
POSTGRES_STEPS = {"claim": sql("claim"), "finish": sql("finish")}
RENEWALS = {"renewal in Redis": script("acquire", by_keeper=True), "renewal in Postgres": sql("renew")}
STEPS: dict[str, Matches] = {**REDIS_STEPS, **POSTGRES_STEPS, **RENEWALS}
ANSWERS = {
    name: sql(name) for name in ("claim", "look", "refuse", "left_behind", "confirm", "withdraw", "renew", "held")
}
EFFECT = {
    "BEGIN": words("BEGIN"),
    "begin": sql("begin"),
    "fence": sql("fence"),
    "mark": sql("mark"),
    "write": words("INSERT INTO effect"),
    "intact": sql("intact"),
    "commit": words("COMMIT"),
}
CUT = [REQUEST_LOST, REPLY_LOST]
BY_HAND = {"who runs": sql("status"), "release by hand": sql("release"), "release": script("release")}
LEFT_LOCK = {"whose lock": words("GET\n"), "release": script("release")}
LAST_RITES = {"finish": sql("finish"), "release": script("release", by_keeper=True)}
BY_A_PERSON = ("doctor", "history", "migration", "purge", "refusals")
"""How the names of those begin that no attempt depends on."""
SILENT = [HANGING, UNHEARD]
SHORT_TTL = 6.0
"""Of a lease whose renewals are waited for: they may come late by two seconds and more on a busy machine."""
CLEARED = replace(TASK, try_number=2, cleared_tries=1)


@pytest.fixture
def world(redis_url: str, database: str) -> Iterator[Proxied]:
    with proxied(redis_url, database) as made:
        with JobGuard(redis=made.node.redis, postgres=made.node.postgres) as guard:
            guard.locks.acquire("another", "nobody", 1)  # both scripts are known to the server from here on
            guard.locks.release("another", "nobody")
        yield made


def arm(world: Proxied, step: str, kind: str, **options: float) -> Fault:
    proxy = world.redis if step in REDIS_STEPS or step == "renewal in Redis" else world.postgres
    return proxy.arm(STEPS[step], kind, **options)  # type: ignore[arg-type]


def admitted(guard: JobGuard, run_key: str = TICK, **asked: Any) -> Lease:
    admission = guard.admit(JOB, run_key=run_key, settings=settings(), **asked)
    assert isinstance(admission, Admitted), str(admission)
    return admission.lease


def renewed_after(fault: Fault, lease: Lease) -> None:
    """Wait until the keeper has met the fault and got over it."""
    assert fault.hit.wait(30)
    eventually(lambda: fault.seen > fault.nth + fault.times - 1, 30)
    eventually(lambda: lease._keeper.trusted_for > 0.6 * SHORT_TTL, 30)  # 0.9 of it right after a renewal
    lease.ensure_held()


@disturbed({**REDIS_STEPS, **POSTGRES_STEPS})
def test_a_step_that_is_disturbed_is_done_once(world: Proxied, step: str, kind: str) -> None:
    fault = arm(world, step, kind)
    began = clock()
    world.node.run()
    assert clock() - began < TTL / 2
    assert fault.hit.is_set()
    assert world.node.errors == []
    assert world.node.ran == [1]
    world.truth.check_done_once()


@disturbed(ANSWERS, "claim", "look")
def test_a_takeover_that_is_disturbed_is_made_once(world: Proxied, step: str, kind: str) -> None:
    ledger = Ledger(world.truth.postgres)
    ledger.claim(0, request())  # long ago
    ledger.close()
    fault = world.postgres.arm(ANSWERS[step], kind)
    world.node.run()
    assert fault.hit.is_set()
    assert (world.node.errors, world.node.ran) == ([], [2])
    assert world.truth.outcomes() == ["taken_over", "success"]
    assert world.truth.effects() == 1
    assert world.truth.lock() is None
    world.truth.check_free()


@disturbed(RENEWALS)
def test_a_renewal_that_is_disturbed_does_not_end_the_lease(world: Proxied, step: str, kind: str) -> None:
    fault = arm(world, step, kind)
    world.node.ttl = SHORT_TTL
    world.node.before = lambda lease: renewed_after(fault, lease)
    world.node.run()
    assert world.node.errors == []
    assert world.node.ran == [1]
    world.truth.check_done_once()


@disturbed(ANSWERS, "held")
def test_a_question_after_a_fixed_lease_that_is_disturbed_does_not_end_it(world: Proxied, step: str, kind: str) -> None:
    fault = world.postgres.arm(ANSWERS[step], kind, seconds=0.3)

    def ask(lease: Lease) -> None:
        assert fault.hit.wait(world.node.ttl)
        heard(lease)
        lease.ensure_held()

    world.node.ttl, world.node.policies, world.node.before = 10, {"renew": False}, ask
    world.node.run()
    assert (world.node.errors, world.node.ran) == ([], [1])
    world.truth.check_done_once()


@disturbed(REDIS_STEPS, "acquire")
def test_a_lock_that_is_to_last_as_long_as_a_long_lease_does(world: Proxied, step: str, kind: str) -> None:
    """It is taken for a moment, and again when there is a claim."""
    fault = world.redis.arm(REDIS_STEPS[step], kind, nth=2)
    left: list[int] = []
    world.node.ttl = 60
    with Address.parse(world.truth.redis).connect(timeout=5, tries_again=1) as client:
        world.node.before = lambda _: left.append(client.ttl(lock_key(JOB)))
        world.node.run()
    assert fault.hit.is_set()
    assert left[0] > 30
    assert (world.node.errors, world.node.ran) == ([], [1])
    world.truth.check_done_once()


@disturbed(REDIS_STEPS, "acquire")
def test_a_reservation_that_is_traded_is_so_once(world: Proxied, step: str, kind: str) -> None:
    with world.truth.guard() as other, JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        other.locks.acquire(JOB, "ticket", 30)
        fault = world.redis.arm(REDIS_STEPS[step], kind)
        began = clock()
        lease = admitted(guard, elsewhere=Elsewhere(ticket="ticket"))
        assert clock() - began < TTL / 2
        assert fault.hit.is_set()
        assert world.truth.lock() == lease.owner
        lease.finish()
    assert world.truth.outcomes() == ["success"]
    assert world.truth.lock() is None


@disturbed(EFFECT, sent_once=["begin", "mark", "write"])
def test_an_effect_that_is_disturbed_is_made_once(world: Proxied, step: str, kind: str) -> None:
    fault = world.postgres.arm(EFFECT[step], kind)
    world.node.run()
    assert fault.hit.is_set()
    assert len(world.node.errors) == (kind in CUT)  # the job is told that it doesn't know, and tries again
    assert world.node.ran == ([1, 2] if kind in CUT else [1])
    world.truth.check_done_once()


@disturbed(ANSWERS, "look", "refuse")
@pytest.mark.parametrize("why", ["busy", "done"])
def test_who_is_refused_is_told_so_and_noted_once(world: Proxied, step: str, kind: str, why: str) -> None:
    with world.truth.guard() as other:
        runner = other.admit(JOB, run_key=TICK, settings=settings())
        assert isinstance(runner, Admitted)
        if why == "done":
            runner.lease.finish()
            runner = other.admit(JOB, run_key=NEXT_TICK, settings=settings())
            assert isinstance(runner, Admitted)
        fault = world.postgres.arm(ANSWERS[step], kind)
        began = clock()
        with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
            answer = guard.admit(JOB, run_key=TICK, settings=settings())
        assert clock() - began < TTL / 2
        assert fault.hit.is_set()
        assert isinstance(answer, Busy if why == "busy" else AlreadyDone)
        assert [refusal.reason for refusal in other.refusals(JOB)] == [why]
        runner.lease.finish()
    assert world.truth.outcomes() == ["success"] * (1 if why == "busy" else 2)
    assert world.truth.lock() is None


@disturbed(ANSWERS, "refuse")
def test_a_refused_result_is_noted_once(world: Proxied, step: str, kind: str) -> None:
    fault = world.postgres.arm(ANSWERS[step], kind)
    with world.truth.guard() as other:
        world.node.before = lambda _: other.release(JOB, reason="node-a burns")  # type: ignore[assignment, return-value]
        world.node.work = world.node.before  # type: ignore[method-assign]  # its effect would be refused sooner
        world.node.run(tries=1)
        assert fault.hit.is_set()
        assert [type(error) for error in world.node.errors] == [StaleWrite]
        assert [refusal.reason for refusal in other.refusals(JOB)] == ["stale"]
    assert world.truth.outcomes() == ["released"]


@disturbed(ANSWERS, "left_behind")
def test_who_meets_a_lock_that_an_ended_attempt_left_does_not_wait_for_it(world: Proxied, step: str, kind: str) -> None:
    with world.truth.guard() as other:
        ended = admitted(other, NEXT_TICK)
        ended.finish()
        other.locks.acquire(JOB, ended.owner, 60)
    fault = world.postgres.arm(ANSWERS[step], kind)
    began = clock()
    world.node.run()
    assert clock() - began < TTL / 2
    assert fault.hit.is_set()
    assert (world.node.errors, world.node.ran) == ([], [2])
    assert world.truth.outcomes() == ["success", "success"]
    assert (world.truth.effects(), world.truth.lock()) == (1, None)


@disturbed(ANSWERS, "confirm")
def test_a_success_that_airflow_showed_is_confirmed(world: Proxied, step: str, kind: str) -> None:
    with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        admitted(guard, TICK, source=TASK).finish()
        assert isinstance(guard.peek(JOB, run_key=TICK, source=CLEARED), AlreadyDone)
        fault = world.postgres.arm(ANSWERS[step], kind)
        guard.confirm(JOB, TICK, TASK)
        assert fault.hit.is_set()
        assert guard.peek(JOB, run_key=TICK, source=CLEARED) is None


def test_a_copy_of_a_confirmation_does_not_confirm_the_success_that_came_after(world: Proxied) -> None:
    fault = world.postgres.arm(sql("confirm"), COPIED)
    with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        admitted(guard, TICK, source=TASK).finish()
        guard.confirm(JOB, TICK, TASK)
        admitted(guard, TICK, source=CLEARED).finish()
        assert world.postgres.send_copies(fault) == 1
        retry = replace(CLEARED, try_number=3)
        assert isinstance(guard.peek(JOB, run_key=TICK, source=retry), AlreadyDone), "nobody has cleared it again"


@disturbed(BY_HAND)
def test_a_person_who_releases_a_job_is_told_whom_that_ended(world: Proxied, step: str, kind: str) -> None:
    with world.truth.guard() as other, JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        runner = admitted(other)
        proxy = world.redis if step in REDIS_STEPS else world.postgres
        fault = proxy.arm(BY_HAND[step], kind)
        ended = guard.release(JOB, reason="node-a burns")
        assert fault.hit.is_set()
        assert ended is not None
        assert (ended.owner, ended.outcome, ended.error) == (runner.owner, "released", "node-a burns")
        assert world.truth.lock() is None
        with pytest.raises(StaleWrite):
            runner.finish()
        assert other.peek(JOB, run_key=TICK) is None
    assert world.truth.outcomes() == ["released"]


@pytest.mark.parametrize("step", ["release by hand", "release"])
def test_a_release_that_is_sent_again_leaves_who_came_meanwhile_alone(world: Proxied, step: str) -> None:
    proxy = world.redis if step in REDIS_STEPS else world.postgres
    told: list[Any] = []
    with world.truth.guard() as other, JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        runner = admitted(other)
        proxy.arm(BY_HAND[step], REPLY_LOST)
        again = proxy.arm(BY_HAND[step], HELD)
        person = threading.Thread(target=lambda: told.append(guard.release(JOB, reason="node-a burns")))
        person.start()
        assert again.hit.wait(TTL)
        successor = admitted(other)
        again.go_on.set()
        person.join(TTL)
        assert [attempt.owner for attempt in told] == [runner.owner]
        assert world.truth.lock() == successor.owner
        successor.ensure_held()
        successor.finish()
        with pytest.raises(StaleWrite):
            runner.finish()
    assert world.truth.outcomes() == ["released", "success"]


@disturbed(LEFT_LOCK)
def test_a_lock_that_was_left_is_freed_by_hand(world: Proxied, step: str, kind: str) -> None:
    with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        guard.locks.acquire(JOB, "somebody who never claimed", 60)
        fault = world.redis.arm(LEFT_LOCK[step], kind)
        assert guard.release(JOB, reason="to be sure") is None
    assert fault.hit.is_set()
    assert world.truth.lock() is None


def test_a_left_lock_that_is_freed_twice_is_not_that_of_who_came_meanwhile(world: Proxied) -> None:
    with world.truth.guard() as other, JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        guard.locks.acquire(JOB, "somebody who never claimed", 60)
        world.redis.arm(script("release"), REPLY_LOST)
        again = world.redis.arm(script("release"), HELD)
        person = threading.Thread(target=guard.release, args=[JOB], kwargs={"reason": "to be sure"})
        person.start()
        assert again.hit.wait(TTL)
        successor = admitted(other)
        again.go_on.set()
        person.join(TTL)
        assert world.truth.lock() == successor.owner
        successor.finish()
    assert world.truth.outcomes() == ["success"]


@disturbed(LAST_RITES)
def test_the_keeper_of_a_killed_job_closes_it_at_once(world: Proxied, step: str, kind: str) -> None:
    proxy = world.redis if step == "release" else world.postgres
    fault = proxy.arm(LAST_RITES[step], kind)
    job = JobProcess(world.node.redis, world.node.postgres, ttl=60)
    try:
        job.signal(signal.SIGKILL)
        eventually(lambda: world.truth.outcomes() == ["failed"])
        eventually(lambda: not alive(job.keeper))
    finally:
        job.clean_up()
    assert fault.hit.is_set()
    asked = clock()
    with world.truth.guard() as other:
        admitted(other).finish()
    assert clock() - asked < TTL / 4
    assert world.truth.outcomes() == ["failed", "success"]
    assert world.truth.lock() is None


@pytest.mark.parametrize("step", LAST_RITES)
def test_a_copy_of_what_the_keeper_of_a_killed_job_sent_changes_nothing(world: Proxied, step: str) -> None:
    proxy = world.redis if step == "release" else world.postgres
    fault = proxy.arm(LAST_RITES[step], COPIED)
    job = JobProcess(world.node.redis, world.node.postgres, ttl=60)
    try:
        job.signal(signal.SIGKILL)
        eventually(lambda: not alive(job.keeper))
    finally:
        job.clean_up()
    with world.truth.guard() as other:
        successor = admitted(other)
        assert proxy.send_copies(fault) == 1
        assert world.truth.lock() == successor.owner
        successor.finish()
    assert world.truth.outcomes() == ["failed", "success"]


@pytest.mark.parametrize("kind", [REQUEST_LOST, REPLY_LOST, DUPLICATED, "slow"])
def test_a_waiter_whose_wake_up_is_disturbed_is_next_all_the_same(world: Proxied, kind: str) -> None:
    fault = world.redis.arm(words("BLPOP"), kind)
    with world.truth.guard() as other:
        runner = other.admit(JOB, run_key=NEXT_TICK, settings=settings(60))
        assert isinstance(runner, Admitted)
        waiter = threading.Thread(target=world.node.run, kwargs={"wait": 60})
        waiter.start()
        eventually(lambda: fault.seen)
        freed = clock()
        runner.lease.finish("failed")
        waiter.join(30)
    assert clock() - freed < TTL
    assert fault.hit.is_set()
    assert (world.node.errors, world.node.ran) == ([], [2])
    assert world.truth.outcomes() == ["failed", "success"]
    assert world.truth.effects() == 1


def test_no_step_is_forgotten() -> None:
    """Neither by these tests nor by those of who waits without a worker."""
    sent = {f"{name}.sql": statement(name, DEFAULT_SCHEMA) for name in names_in("postgres", "sql")}
    sent |= {f"{name}.lua by the job": f"EVALSHA\n{digest(name)}" for name in names_in("redis", "lua")}
    sent |= {f"{name}.lua by others": f"EVAL\n{lua(name)}" for name in names_in("redis", "lua")}
    left_out = {name for name, text in sent.items() if not any(matches(text.encode()) for matches in DISTURBED)}
    assert {name for name in left_out if not name.startswith(BY_A_PERSON)} == set()


def names_in(store: str, folder: str) -> list[str]:
    return [file.name.partition(".")[0] for file in (files(f"airflow_exclusive.stores.{store}") / folder).iterdir()]


@pytest.mark.parametrize("step", STEPS)
def test_a_copy_that_arrives_when_all_is_over_changes_nothing(world: Proxied, step: str) -> None:
    """As when a packet is sent again by a machine that has long been given up."""
    fault = arm(world, step, COPIED)
    if step in RENEWALS:
        world.node.ttl = SHORT_TTL
        world.node.before = lambda lease: renewed_after(fault, lease)
    world.node.run()
    assert world.node.ran == [1]
    proxy = world.postgres if step in POSTGRES_STEPS or step == "renewal in Postgres" else world.redis
    assert proxy.send_copies(fault) == 1
    assert world.truth.outcomes() == ["success"]
    world.truth.check_free()
    assert world.truth.effects() == 1


def test_a_copy_of_a_claim_that_has_failed_begins_nothing(world: Proxied) -> None:
    def fail(lease: Lease) -> None:
        raise ValueError("no rows")

    fault = arm(world, "claim", COPIED)
    world.node.before = fail
    world.node.run(tries=1)
    assert world.postgres.send_copies(fault) == 1
    assert world.truth.outcomes() == ["failed"]
    with world.truth.guard() as other:
        assert other.peek(JOB, run_key=TICK) is None


@pytest.mark.parametrize("step", ["finish", "release"])
def test_a_copy_does_not_end_the_attempt_that_came_after(world: Proxied, step: str) -> None:
    fault = arm(world, step, COPIED)
    world.node.run()
    with world.truth.guard() as other:
        successor = other.admit(JOB, run_key=NEXT_TICK, settings=settings())
        assert isinstance(successor, Admitted)
        proxy = world.redis if step == "release" else world.postgres
        assert proxy.send_copies(fault) == 1
        assert world.truth.lock() == successor.lease.owner
        successor.lease.finish()
    assert world.truth.outcomes() == ["success", "success"]


def test_a_release_that_never_arrives_keeps_nobody_waiting(world: Proxied) -> None:
    fault = arm(world, "release", REQUEST_LOST, times=100)
    world.node.run()
    assert fault.hit.is_set()
    assert (world.node.errors, world.node.ran) == ([], [1])
    world.truth.check_done_once_but_for_its_lock()


@pytest.mark.parametrize("kind", SILENT)
@pytest.mark.parametrize("step", [*REDIS_STEPS, *POSTGRES_STEPS])
def test_a_step_that_nothing_is_heard_of_is_made_again_in_time(world: Proxied, step: str, kind: str) -> None:
    """As when a server's machine goes down: no connection breaks, nothing comes."""
    fault = arm(world, step, kind)
    began = world.truth.clock()
    world.node.run()
    assert world.truth.clock() - began < 0.8 * TTL, "while there still was time to make use of it"
    assert fault.hit.is_set()
    assert (world.node.errors, world.node.ran) == ([], [1])
    world.truth.check_done_once()


@disturbed(ANSWERS, "renew")
def test_a_renewal_by_a_job_that_is_heard_of_late_is_made_once(world: Proxied, step: str, kind: str) -> None:
    """Before its work begins, and its keeper: the claim has taken half of the lease."""
    arm(world, "claim", HANGING, times=2)
    fault = world.postgres.arm(ANSWERS[step], kind, seconds=0.3)
    seen: list[int] = []
    world.node.ttl = SHORT_TTL
    world.node.before = lambda _: seen.append(fault.seen)
    world.node.run()
    assert fault.hit.is_set()
    assert seen[0] == (2 if kind in CUT else 1), "there is no keeper yet"
    assert (world.node.errors, world.node.ran) == ([], [1])
    world.truth.check_done_once()


@pytest.mark.parametrize("kind", SILENT)
def test_a_claim_that_is_heard_of_late_is_no_failed_attempt(world: Proxied, kind: str) -> None:
    """Most of the lease is over by then, but the server is quick again."""
    fault = arm(world, "claim", kind, times=2)
    began = clock()
    world.node.run()
    assert fault.hit.is_set()
    assert clock() - began > TTL / 2
    assert (world.node.errors, world.node.ran) == ([], [1])
    world.truth.check_done_once()


@pytest.mark.parametrize("kind", SILENT)
@pytest.mark.parametrize("step", ["look", "refuse"])
def test_who_is_refused_unheard_asks_again(
    world: Proxied, step: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_exclusive.guard.ANSWER_WITHIN", 2.0)
    with world.truth.guard() as other:
        runner = admitted(other, NEXT_TICK)
        fault = world.postgres.arm(sql(step), kind)
        with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
            assert isinstance(guard.admit(JOB, run_key=TICK, settings=settings()), Busy)
        assert fault.hit.is_set()
        assert [refusal.reason for refusal in other.refusals(JOB)] == ["busy"]
        runner.finish()


# askers that never learn the answer


@pytest.mark.parametrize("step", ["acquire", "claim"])
@pytest.mark.parametrize("kind", SILENT)
def test_who_is_told_to_stop_while_it_asks_keeps_nobody_out(world: Proxied, step: str, kind: str) -> None:
    fault = arm(world, step, kind)
    with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard, told_to_stop(fault.hit.wait):
        guard.admit(JOB, run_key=TICK, settings=settings(3600, renew=False))
    with world.truth.guard() as other:
        admitted(other).finish()
        notes = other.refusals(JOB)
    assert [(note.reason, "Told" in note.detail) for note in notes] == [("withdrawn", True)] * (step == "claim")
    made = kind == UNHEARD and step == "claim"
    assert world.truth.outcomes() == [*["failed"] * made, "success"]
    assert world.truth.lock() is None


@disturbed(ANSWERS, "withdraw")
def test_a_withdrawal_that_is_disturbed_ends_the_claim_and_is_noted_once(world: Proxied, step: str, kind: str) -> None:
    unheard = arm(world, "claim", UNHEARD)
    fault = world.postgres.arm(ANSWERS[step], kind, seconds=0.3)
    with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard, told_to_stop(unheard.hit.wait):
        guard.admit(JOB, run_key=TICK, settings=settings(3600, renew=False))
    assert fault.hit.is_set()
    with world.truth.guard() as other:
        admitted(other).finish()
        assert [note.reason for note in other.refusals(JOB)] == ["withdrawn"]
    assert world.truth.outcomes() == ["failed", "success"]
    assert world.truth.lock() is None


def test_who_is_killed_before_its_claim_holds_nobody_up_for_a_whole_lease(world: Proxied) -> None:
    fault = arm(world, "claim", REQUEST_LOST, times=FOR_EVER)
    asker = multiprocessing.get_context("spawn").Process(
        target=_ask_for_an_hour, args=(world.node.redis, world.node.postgres)
    )
    asker.start()
    assert fault.hit.wait(30)
    asker.kill()
    asker.join()
    assert world.truth.lock() is not None
    with Address.parse(world.truth.redis).connect(timeout=5, tries_again=1) as client:
        assert client.ttl(lock_key(JOB)) <= 30


def test_a_fixed_lease_is_locked_for_as_long_as_it_lasts(world: Proxied) -> None:
    client = Address.parse(world.truth.redis).connect(timeout=5, tries_again=1)
    with client, world.truth.guard() as guard, guard.hold(JOB, settings=settings(3600, renew=False)):
        assert client.ttl(lock_key(JOB)) > 3500


def _ask_for_an_hour(redis: str, postgres: str) -> None:
    with JobGuard(redis=redis, postgres=postgres) as guard:
        guard.admit(JOB, run_key=TICK, settings=settings(3600, renew=False))


def test_a_claim_that_is_made_after_its_asker_has_gone_is_none(world: Proxied) -> None:
    fault = arm(world, "claim", HANGING)
    with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard, told_to_stop(fault.hit.wait):
        guard.admit(JOB, run_key=TICK, settings=settings(3600, renew=False))
    assert world.postgres.send_copies(fault) == 1
    with world.truth.guard() as other:
        admitted(other).finish()
    assert world.truth.outcomes() == ["success"]


def test_a_claim_that_is_stopped_halfway_meets_its_withdrawal(world: Proxied, database: str) -> None:
    """It has read, and waits for the job's row; so does the withdrawal, behind it."""
    with world.truth.guard() as other:
        admitted(other, NEXT_TICK).finish()
    waiting = threading.Event()
    with psycopg.connect(database) as lock, psycopg.connect(database, autocommit=True) as watcher:
        lock.execute("SELECT FROM exclusive.scheduled_job_status FOR UPDATE")

        def watch() -> None:
            blocked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            eventually(lambda: watcher.execute(blocked).rowcount == 1)
            waiting.set()
            eventually(lambda: watcher.execute(blocked).rowcount == 2)
            lock.rollback()

        watcher_thread = threading.Thread(target=watch)
        watcher_thread.start()
        with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard, told_to_stop(waiting.wait):
            guard.admit(JOB, run_key=TICK, settings=settings(3600, renew=False))
        watcher_thread.join()
    with world.truth.guard() as other:
        admitted(other).finish()
    assert world.truth.outcomes() == ["success", "failed", "success"]


@pytest.mark.parametrize("why", ["busy", "done"])
def test_a_copy_of_a_claim_that_was_refused_begins_nothing(world: Proxied, why: str) -> None:
    fault = world.postgres.arm(sql("claim"), COPIED)
    with world.truth.guard() as other, JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        runner = admitted(other, TICK if why == "done" else NEXT_TICK)
        if why == "done":
            runner.finish()
        else:
            other.locks.release(JOB, runner.owner)  # it gets past the gate
        assert isinstance(guard.admit(JOB, run_key=TICK, settings=settings()), AlreadyDone if why == "done" else Busy)
        if why == "busy":
            runner.finish()
        assert world.postgres.send_copies(fault) == 1
        assert other.peek(JOB, run_key=TICK if why == "busy" else NEXT_TICK) is None
    assert world.truth.outcomes() == ["success"]


@disturbed(STEPS, "acquire", "claim", "release")
def test_who_is_refused_behind_the_gate_leaves_nothing_there(world: Proxied, step: str, kind: str) -> None:
    with world.truth.guard() as other, JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        runner = admitted(other, NEXT_TICK)
        other.locks.release(JOB, runner.owner)
        fault = arm(world, step, kind)
        assert isinstance(guard.admit(JOB, run_key=TICK, settings=settings()), Busy)
        assert fault.hit.is_set()
        assert world.truth.lock() in (None, runner.owner)
        runner.finish()
    assert world.truth.outcomes() == ["success"]
    assert world.truth.lock() is None


@pytest.mark.parametrize("what", ["refused", "given up"])
def test_a_lock_that_a_refused_asker_could_not_give_back_holds_nobody_up(
    world: Proxied, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_exclusive.core.gate._ASKS_FOR", 0.5)
    with world.truth.guard() as other, JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        runner = admitted(other, NEXT_TICK)
        other.locks.release(JOB, runner.owner)
        world.redis.arm(script("release"), REQUEST_LOST, times=FOR_EVER)
        if what == "refused":
            assert isinstance(guard.admit(JOB, run_key=TICK, settings=settings(3600)), Busy)
        else:
            world.redis.arm(script("acquire"), REPLY_LOST, times=FOR_EVER)
            with pytest.raises(StoreUnavailable):
                guard.admit(JOB, run_key=TICK, settings=settings(3600))
        assert world.truth.lock() not in (None, runner.owner)
        runner.finish()
        began = clock()
        admitted(other).finish()
        assert clock() - began < TTL / 4
    assert world.truth.lock() is None


def test_a_waiter_that_gets_past_an_empty_gate_does_not_wake_itself(world: Proxied) -> None:
    claims = world.postgres.arm(sql("claim"), COPIED, times=FOR_EVER)
    with world.truth.guard() as other:
        runner = other.admit(JOB, run_key=NEXT_TICK, settings=settings(60, renew=False))  # nobody puts the lock back
        assert isinstance(runner, Admitted)
        other.locks.release(JOB, runner.lease.owner, wake=False)
        waiter = threading.Thread(target=world.node.run, kwargs={"wait": 60})
        waiter.start()
        eventually(lambda: claims.seen)
        first = clock()
        eventually(lambda: claims.seen > 1, 30)
        assert clock() - first > 2, "it asks every five seconds"
        runner.lease.finish()
        waiter.join(30)
    assert world.node.ran == [2]


@pytest.mark.parametrize("step", RENEWALS)
def test_a_renewal_that_hangs_is_left_behind(world: Proxied, step: str) -> None:
    fault = arm(world, step, HANGING)
    world.node.ttl = SHORT_TTL
    world.node.before = lambda lease: renewed_after(fault, lease)
    world.node.run()
    assert (world.node.errors, world.node.ran) == ([], [1])
    world.truth.check_done_once()
