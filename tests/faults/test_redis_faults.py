"""The gate restarted, emptied, full, forgetful, slow, away, frozen, Redis or Valkey: no second run, none too few."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import psycopg
import pytest

from airflow_exclusive.core.admission import Admitted, AlreadyDone, Busy
from airflow_exclusive.core.errors import StoreUnavailable
from airflow_exclusive.core.gate import _ASKS_FOR as ASKS_FOR
from airflow_exclusive.core.job import Request
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.patience import Elsewhere, Patience
from airflow_exclusive.core.ports import LockAnswer
from airflow_exclusive.core.standby import Woken
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.node import clock
from airflow_exclusive.standby import gate as open_gate
from airflow_exclusive.standby import standby
from airflow_exclusive.stores.redis.address import LONGEST_BACKOFF
from airflow_exclusive.stores.redis.locks import ANSWER_WITHIN, TRIES_AGAIN, RedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key
from tests.support.ledger import JOB, NEXT_TICK, TASK, TICK, count_looks
from tests.support.proxied_node import Node, Truth, proxied, settings
from tests.support.proxy import SLOW, UNHEARD, sql
from tests.support.servers import BreakableValkey, SystemRedis
from tests.support.told import told_to_stop
from tests.support.waiting import eventually

KEY = lock_key(JOB)
TICKETS = ["one ticket", "another ticket"]
Gate: TypeAlias = SystemRedis | BreakableValkey


@pytest.fixture(params=["breakable_redis", "breakable_valkey"])
def gate(request: pytest.FixtureRequest) -> Iterator[Gate]:
    """A server to break, empty and as it was configured: of the distribution, and the embedded one."""
    server: Gate = request.getfixturevalue(request.param)
    server.client.flushall()
    yield server
    server.client.config_set("maxmemory", 0)


@pytest.fixture
def node(gate: Gate, database: str) -> Node:
    return Node(gate.url(), database, ttl=6)


@pytest.fixture
def truth(gate: Gate, database: str) -> Truth:
    return Truth(gate.url(), database)


def test_the_servers_are_of_two_kinds(breakable_redis: SystemRedis, breakable_valkey: BreakableValkey) -> None:
    told = [server.client.info("server") for server in (breakable_redis, breakable_valkey)]
    assert "valkey_version" not in told[0]
    assert told[1]["valkey_version"].startswith("9.")


def restart(server: Gate) -> None:
    server.kill()
    server.start()


def fill_up(server: Gate) -> None:
    server.client.config_set("maxmemory", 1)


FORGETTING: dict[str, Callable[[Gate], object]] = {
    "restart": restart,
    "FLUSHALL": lambda server: server.client.flushall(),
}
DISTURBANCES: dict[str, Callable[[Gate], object]] = {
    **FORGETTING,
    "SCRIPT FLUSH": lambda server: server.client.script_flush(),
    "CLIENT KILL": lambda server: server.client.client_kill_filter(_type="normal", skipme=True),
    "full memory": fill_up,
}


@pytest.mark.parametrize("what", DISTURBANCES)
def test_what_happens_to_redis_during_a_run_changes_nothing(node: Node, truth: Truth, gate: Gate, what: str) -> None:
    def disturb(lease: Lease) -> None:
        truth.wait_for_renewals(1)
        DISTURBANCES[what](gate)
        with truth.guard() as other:
            assert isinstance(other.admit(JOB, run_key=TICK, settings=settings()), Busy)
        # Long enough for the lock not to end by itself; the next renewal of what is still there is seen by that.
        gate.client.pexpire(KEY, 600_000)
        eventually(lambda: gate.client.get(KEY) == lease.owner and gate.client.pttl(KEY) <= 1000 * node.ttl, 60)
        lease.ensure_held()

    node.before = disturb
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    gate.client.config_set("maxmemory", 0)
    truth.check_done_once()


@pytest.mark.parametrize("what", FORGETTING)
def test_a_lock_that_is_lost_between_gate_and_truth_lets_nobody_run_twice(
    gate: Gate, database: str, truth: Truth, what: str
) -> None:
    """Two are past the gate, and ask Postgres at the same moment."""
    nodes = [Node(gate.url(), database) for _ in range(2)]
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    threads = [threading.Thread(target=node.run, kwargs={"wait": 30}) for node in nodes]
    with psycopg.connect(database) as lock, psycopg.connect(database, autocommit=True) as watcher:
        lock.execute("LOCK TABLE exclusive.scheduled_job_status IN ACCESS EXCLUSIVE MODE")
        for number, thread in enumerate(threads, 1):
            thread.start()
            eventually(lambda number=number: watcher.execute(waiting).rowcount == number)  # type: ignore[misc]
            FORGETTING[what](gate)
        lock.rollback()
        for thread in threads:
            thread.join(40)
    assert [node.errors for node in nodes] == [[], []]
    assert [*nodes[0].ran, *nodes[1].ran] == [1]
    assert truth.outcomes() == ["success"]
    assert truth.effects() == 1


def test_a_waiter_whose_connection_is_killed_waits_on(gate: Gate, node: Node, truth: Truth) -> None:
    def blocked() -> list[str]:
        return [client["id"] for client in gate.client.client_list() if client["cmd"] == "blpop"]

    with truth.guard() as other:
        runner = other.admit(JOB, run_key=NEXT_TICK, settings=settings(60))
        assert isinstance(runner, Admitted)
        waiter = threading.Thread(target=node.run, kwargs={"wait": 60})
        waiter.start()
        (first,) = eventually(blocked)
        gate.client.client_kill_filter(_id=first)
        eventually(lambda: blocked() not in ([], [first]))
        began: list[float] = []
        node.before = lambda _: began.append(clock())
        freed = clock()
        runner.lease.finish()
        waiter.join(60)
    assert began[0] - freed < 3
    assert (node.errors, node.ran) == ([], [2])


def test_a_full_server_takes_no_new_lock_and_frees_those_it_has(gate: Gate) -> None:
    locks = RedisLocks(gate.url())
    assert locks.acquire("one", "a", 30).mine
    fill_up(gate)
    with pytest.raises(StoreUnavailable, match=r"can't serve the lock: .*maxmemory"):
        locks.acquire("two", "a", 30)
    assert locks.acquire("one", "a", 30).mine
    assert not locks.acquire("one", "b", 30).mine
    assert locks.release("one", "a")
    assert gate.client.get(lock_key("one")) is None
    locks.close()


def test_a_server_that_takes_a_second_for_each_reply_delays_and_no_more(redis_url: str, database: str) -> None:
    with proxied(redis_url, database) as world:
        fault = world.redis.arm(lambda request: request.startswith(b"EVAL"), SLOW, times=1000)
        world.node.ttl = 6
        world.node.before = lambda _: world.truth.wait_for_renewals(1)
        world.node.run()
        assert fault.seen >= 3
        assert (world.node.errors, world.node.ran) == ([], [1])
        world.truth.check_done_once()


# away


@pytest.mark.parametrize("why", ["away", "full"])
def test_fail_admits_nobody_while_the_gate_is_shut(
    gate: Gate, node: Node, truth: Truth, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_exclusive.core.gate._ASKS_FOR", 1.0)
    gate.kill() if why == "away" else fill_up(gate)
    began = clock()
    try:
        node.run(tries=1)
        assert clock() - began < 8
        assert [type(error) for error in node.errors] == [StoreUnavailable]
        assert "secret" not in str(node.errors)
        assert node.ran == []
        assert truth.outcomes() == []
    finally:
        gate.start() if why == "away" else gate.client.config_set("maxmemory", 0)
    node.run(tries=1)
    assert node.ran == [1]
    truth.check_done_once()


@pytest.mark.parametrize("why", ["away", "full"])
def test_postgres_decides_alone_where_it_is_asked_to(gate: Gate, node: Node, truth: Truth, why: str) -> None:
    alone = settings(on_redis_down="postgres")
    answers: list[object] = []

    def others_ask(lease: Lease) -> None:
        with truth.guard() as other:
            answers.append(other.admit(JOB, run_key=TICK, settings=alone))
        truth.wait_for_renewals(1)
        lease.ensure_held()

    node.policies, node.before = {"on_redis_down": "postgres"}, others_ask
    gate.kill() if why == "away" else fill_up(gate)
    try:
        node.run()
        with truth.guard() as other:
            answers.append(other.admit(JOB, run_key=TICK, settings=alone))
    finally:
        gate.start() if why == "away" else gate.client.config_set("maxmemory", 0)
    assert (node.errors, node.ran) == ([], [1])
    assert [type(answer) for answer in answers] == [Busy, AlreadyDone]
    truth.check_done_once()


def test_a_gate_that_comes_back_has_the_lock_until_the_end(gate: Gate, node: Node, truth: Truth) -> None:
    """Admitted without the gate, its keeper takes the lock as soon as there is one to take."""

    def come_back(lease: Lease) -> None:
        gate.start()
        eventually(lambda: gate.client.get(KEY) == lease.owner)

    node.policies, node.before = {"on_redis_down": "postgres"}, come_back
    gate.kill()
    try:
        node.run()
    finally:
        gate.start()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has asked the gate for the lock and got no answer."""
    owners: list[str] = []
    acquire = RedisLocks.acquire

    def noted(self: RedisLocks, job_name: str, owner: str, *rest: Any) -> LockAnswer:
        try:
            return acquire(self, job_name, owner, *rest)
        except StoreUnavailable:
            owners.append(owner)
            raise

    monkeypatch.setattr(RedisLocks, "acquire", noted)
    return owners


def test_who_waits_in_its_worker_outlasts_a_gate_that_is_away(
    gate: Gate, node: Node, truth: Truth, unheard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_exclusive.core.gate._ASKS_FOR", 0.1)
    with truth.guard() as other:
        runner = other.admit(JOB, run_key=NEXT_TICK, settings=settings(60))
        assert isinstance(runner, Admitted)
        waiter = threading.Thread(target=node.run, kwargs={"tries": 1, "wait": 60})
        waiter.start()
        eventually(lambda: any(client["cmd"] == "blpop" for client in gate.client.client_list()))
        gate.kill()
        try:
            eventually(lambda: len(unheard) >= 3)
        finally:
            gate.start()
        runner.lease.finish()
        waiter.join(60)
    assert (node.errors, node.ran) == ([], [2])
    assert truth.outcomes() == ["success", "success"]


def test_who_waits_away_is_woken_without_a_gate_and_postgres_admits_one(
    gate: Gate, database: str, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can reserve the lock for one of them: all are woken, and all but one told to wait on."""
    monkeypatch.setattr("airflow_exclusive.core.standby.POLL_AT_MOST", 0.2)
    alone = settings(60, on_redis_down="postgres")
    looked = count_looks(monkeypatch)

    async def turn(ticket: str) -> Woken:
        asked = Request(JOB, TICK, ticket, "triggerer", TASK)
        async with open_gate(gate.url()) as locks, standby(database) as waiting:
            return await waiting.turn(asked, Patience(TASK, clock(), 60, 60), locks, "postgres")

    async def both(runner: Lease) -> list[Woken]:
        turns = [asyncio.create_task(turn(ticket)) for ticket in TICKETS]
        while len(looked) < 4:
            await asyncio.sleep(0.02)
        assert not any(turn.done() for turn in turns)
        await asyncio.to_thread(runner.finish)
        return await asyncio.gather(*turns)

    with truth.guard() as other:
        runner = other.admit(JOB, run_key=NEXT_TICK, settings=alone)
        assert isinstance(runner, Admitted)
        gate.kill()
        try:
            woken = asyncio.run(asyncio.wait_for(both(runner.lease), 60))
            assert [one.outcome for one in woken] == ["free", "free"]
            assert all("doesn't answer" in one.why for one in woken)
            first, second = (
                other.admit(JOB, run_key=TICK, wait=60, settings=alone, elsewhere=Elsewhere(waited=1, ticket=ticket))
                for ticket in TICKETS
            )
            assert isinstance(first, Admitted)
            assert isinstance(second, Busy)
            assert second.holder
            assert second.holder.owner == first.lease.owner
            assert second.wait_left > 0
            first.lease.finish()
        finally:
            gate.start()
    assert truth.outcomes() == ["success", "success"]


# frozen


@contextmanager
def frozen(server: Gate) -> Iterator[None]:
    """Nothing of it runs; its machine goes on taking connections, and acknowledging what is sent."""
    assert server.daemon is not None
    server.daemon.send(signal.SIGSTOP)
    try:
        yield
    finally:
        server.daemon.send(signal.SIGCONT)


@contextmanager
def impatient() -> Iterator[None]:
    """Who comes meanwhile waits a quarter as long for an answer of the gate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RedisLocks.__init__.__kwdefaults__, "timeout", ANSWER_WITHIN / 4)
        yield


def test_a_gate_that_says_nothing_is_waited_for_no_longer_than_documented() -> None:
    """At worst the last pause begins when the time is nearly over; the last answer comes after that, and leaving."""
    request = (1 + TRIES_AGAIN) * ANSWER_WITHIN + TRIES_AGAIN * LONGEST_BACKOFF
    assert request < 5, "then Airflow kills who was told to stop"
    assert ASKS_FOR + 3 * request <= 25


def test_fail_admits_nobody_while_the_gate_is_frozen(
    gate: Gate, node: Node, truth: Truth, unheard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_exclusive.core.gate._ASKS_FOR", ASKS_FOR / 4)
    with impatient(), truth.guard() as guard:
        assert guard.locks.owner(JOB) is None  # its connection is open when the server freezes
        began = clock()
        with frozen(gate), pytest.raises(StoreUnavailable, match=r"Redis at \S+ doesn't answer: "):
            guard.admit(JOB, run_key=TICK, settings=settings())
        assert ASKS_FOR / 4 <= clock() - began < 25, "no more than four times as long, on a machine that has much to do"
        assert len(unheard) > 1
        assert [refusal.reason for refusal in guard.refusals(JOB)] == ["withdrawn"]
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_postgres_decides_alone_while_the_gate_is_frozen(gate: Gate, node: Node, truth: Truth) -> None:
    node.policies = {"on_redis_down": "postgres"}
    began = clock()
    with impatient(), frozen(gate):
        node.run()
    assert clock() - began < 10
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once_but_for_its_lock()


def test_a_job_whose_gate_is_frozen_past_its_ttl_goes_on_and_ends(gate: Gate, node: Node, truth: Truth) -> None:
    answers: list[object] = []

    def freeze(lease: Lease) -> None:
        assert gate.client.get(KEY) == lease.owner
        standing_still.enter_context(frozen(gate))
        began = truth.heartbeat()
        eventually(lambda: truth.heartbeat() > began + node.ttl, 60, every=0.1)
        with truth.guard() as other:
            answers.append(other.admit(JOB, run_key=TICK, settings=settings(on_redis_down="postgres")))
        lease.ensure_held()

    node.ttl, node.before = 6, freeze
    with impatient(), ExitStack() as standing_still:
        node.run()
    assert (node.errors, node.ran) == ([], [1])
    assert [type(answer) for answer in answers] == [Busy]
    truth.check_done_once_but_for_its_lock()


def test_who_is_told_to_stop_while_it_asks_has_withdrawn_before_the_gate_is_left(
    gate: Gate, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a frozen gate is waited for: who is killed meanwhile must have withdrawn."""
    monkeypatch.setitem(RedisLocks.__init__.__kwdefaults__, "timeout", 60.0)
    freezing = ExitStack()
    seen: list[object] = []

    def watch(guard: JobGuard) -> None:
        try:
            eventually(lambda: guard.refusals(JOB))
            seen.append(guard.peek(JOB, run_key=TICK))
        finally:
            freezing.close()

    with proxied(gate.url(), database) as world, world.truth.guard() as other:
        fault = world.postgres.arm(sql("claim"), UNHEARD)
        watcher = threading.Thread(target=watch, args=[other])

        def frozen_then(timeout: float) -> bool:
            unanswered = fault.hit.wait(timeout)
            freezing.enter_context(frozen(gate))
            watcher.start()
            return unanswered

        with (
            freezing,
            JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard,
            told_to_stop(frozen_then),
        ):
            guard.admit(JOB, run_key=TICK, settings=settings(3600, renew=False))
        watcher.join()
        assert seen == [None], "nobody is kept out"
        assert [refusal.reason for refusal in other.refusals(JOB)] == ["withdrawn"]
        assert world.truth.outcomes() == ["failed"]
        assert world.truth.lock() is None
