"""Waiting without a worker, on real servers: who is woken, when, and what is left behind."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from airflow_exclusive import Admitted, AlreadyDone, Busy, JobGuard
from airflow_exclusive.core import standby as rules
from airflow_exclusive.core.errors import StoreMisconfigured, StoreUnavailable
from airflow_exclusive.core.job import Request, Source
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.patience import Elsewhere, Patience
from airflow_exclusive.core.ports import LockAnswer
from airflow_exclusive.core.standby import Woken
from airflow_exclusive.node import clock
from airflow_exclusive.standby import gate, standby
from airflow_exclusive.stores.postgres.async_statuses import AsyncPostgresStatuses
from airflow_exclusive.stores.redis.async_locks import AsyncRedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key
from tests.support.disturbed import disturbed
from tests.support.ledger import JOB, NEXT_TICK, TASK, TICK, count_looks
from tests.support.proxy import FAULTS, HANGING, PostgresProtocol, Proxy, RedisProtocol, script, sql

FOREVER = float("inf")


@dataclass
class Place:
    """The stores, and a guard on them."""

    redis: str
    postgres: str
    guard: JobGuard

    def hold(self, run_key: str = TICK, **changes: Any) -> Lease:
        answer = self.guard.admit(JOB, run_key=run_key, **changes)
        assert isinstance(answer, Admitted), answer
        return answer.lease

    async def turn(
        self,
        ticket: str,
        *,
        run_key: str = TICK,
        wait: float = FOREVER,
        ttl: float = 30,
        source: Source = TASK,
        waited: float = 0.0,
    ) -> Woken:
        """What one trigger does."""
        asked = Request(JOB, run_key, ticket, "triggerer", source)
        patience = Patience(source, clock() - waited, wait, ttl)
        async with gate(self.redis) as locks, standby(self.postgres) as waiting:
            return await waiting.turn(asked, patience, locks)

    def lock(self) -> str | None:
        return self.guard.locks.owner(JOB)


@pytest.fixture
def place(redis_url: str, database: str) -> Iterator[Place]:
    with JobGuard(redis=redis_url, postgres=database) as guard:
        yield Place(redis_url, database, guard)


@contextmanager
def proxied(place: Place) -> Iterator[tuple[Place, Proxy, Proxy]]:
    """The same stores, behind proxies."""
    truth = Proxy(PostgresProtocol(), *address(place.postgres, 5432))
    gated = Proxy(RedisProtocol(), *address(place.redis, 6379))
    try:
        postgres = urlsplit(place.postgres)
        there = f"postgresql://{postgres.username}@127.0.0.1:{truth.port}{postgres.path}"
        yield (
            Place(f"redis://127.0.0.1:{gated.port}{urlsplit(place.redis).path}", there, place.guard),
            truth,
            gated,
        )
    finally:
        truth.close()
        gated.close()


def address(url: str, port: int) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or port


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "POLL_AT_MOST", 0.2)


def played(play: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        connections: Collection[Any] = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
        before = len(connections)
        try:
            return await play()
        finally:
            # Over TLS a connection is open until the server has said goodbye too. A triggerer's loop is there to hear
            # it; one that ends first leaves the connection to the collector, in the middle of another test.
            while len(connections) > before:
                await asyncio.sleep(0.01)

    return asyncio.run(asyncio.wait_for(within(), 60))


def test_who_waits_for_a_free_job_gets_it_reserved_and_trades_the_ticket_for_a_lease(place: Place) -> None:
    woken = played(lambda: place.turn("ticket"))
    assert (woken.outcome, place.lock()) == ("free", "ticket")

    answer = place.guard.admit(JOB, run_key=TICK, elsewhere=Elsewhere(ticket="ticket"))
    assert isinstance(answer, Admitted)
    assert place.lock() == answer.lease.owner != "ticket"
    answer.lease.finish()


def test_of_two_workers_that_were_woken_for_one_waiter_one_is_admitted(place: Place) -> None:
    played(lambda: place.turn("ticket"))
    source = replace(TASK, try_number=1)
    asked = {"run_key": TICK, "source": source, "elsewhere": Elsewhere(ticket="ticket")}
    first, second = place.guard.admit(JOB, **asked), place.guard.admit(JOB, **asked)
    assert isinstance(first, Admitted)
    assert isinstance(second, Busy)
    assert second.wait_left == FOREVER, "it is its own other attempt that runs"
    first.lease.finish()


def test_two_copies_of_a_trigger_are_one_waiter(place: Place) -> None:
    async def both() -> list[Woken]:
        return await asyncio.gather(place.turn("ticket"), place.turn("ticket"))

    assert [woken.outcome for woken in played(both)] == ["free", "free"]
    assert place.lock() == "ticket"


def test_a_reservation_keeps_everybody_else_out_and_lapses_when_nobody_comes_for_it(place: Place) -> None:
    async def both() -> list[Woken]:
        began = time.monotonic()
        first = await place.turn("gone", ttl=1)
        second = await place.turn("there", run_key=NEXT_TICK, ttl=1)
        return [first, second, time.monotonic() - began]

    first, second, took = played(both)
    assert (first.outcome, second.outcome, place.lock()) == ("free", "free", "there")
    assert took > 0.9


def test_a_reservation_is_short_however_long_the_lease_is_to_be(place: Place, redis_client: redis.Redis) -> None:
    assert played(lambda: place.turn("ticket", ttl=300)).outcome == "free"
    assert 0 < redis_client.pttl(lock_key(JOB)) <= 30_000


def test_nobody_is_turned_away_because_of_a_reservation(place: Place) -> None:
    played(lambda: place.turn("gone", ttl=1))
    lease = place.hold(NEXT_TICK, wait=0)
    assert lease.token == 1
    lease.finish()


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The tickets of those who have asked Postgres at least once."""
    tickets: set[str] = set()
    look = AsyncPostgresStatuses.look

    async def noted(self: AsyncPostgresStatuses, request: Request) -> Any:
        seen = await look(self, request)
        tickets.add(request.owner)
        return seen

    monkeypatch.setattr(AsyncPostgresStatuses, "look", noted)
    return tickets


async def until_all_wait(looked: set[str], turns: Collection[asyncio.Task[Woken]]) -> None:
    while len(looked) < len(turns):
        await asyncio.sleep(0.02)
    assert not any(turn.done() for turn in turns)


@pytest.fixture
def asked_the_gate(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The tickets of those whom Redis has answered at least once."""
    tickets: set[str] = set()
    acquire = AsyncRedisLocks.acquire

    async def noted(self: AsyncRedisLocks, job_name: str, owner: str, ttl: float) -> LockAnswer:
        answer = await acquire(self, job_name, owner, ttl)
        tickets.add(owner)
        return answer

    monkeypatch.setattr(AsyncRedisLocks, "acquire", noted)
    return tickets


def test_a_release_wakes_one_of_a_thousand(
    place: Place, looked: set[str], asked_the_gate: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "POLL_AT_MOST", 1.0)
    lease = place.hold("tick 0")

    async def crowd() -> tuple[list[Woken], int, int, int]:
        turns = [asyncio.create_task(place.turn(f"ticket {n}", run_key=f"tick {n}")) for n in range(1, 1001)]
        await until_all_wait(looked, turns)
        _, others = connections(place)
        await asyncio.to_thread(lease.finish)
        while len(asked_the_gate) < len(turns):
            await asyncio.sleep(0.02)
        truths, gates = connections(place)
        woken = [turn.result() for turn in turns if turn.done()]
        waiting = [turn for turn in turns if not turn.done()]
        for turn in waiting:
            turn.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return woken, truths, len(gates - others), len(waiting)

    woken, truths, gates, waiting = played(crowd)
    assert [one.outcome for one in woken] == ["free"]
    assert waiting == 999
    assert str(place.lock()).startswith("ticket ")
    assert truths - 1 == 1, "one connection besides the guard's"
    assert gates == 1, "one for all of them"


def connections(place: Place) -> tuple[int, set[str]]:
    """To this test's databases, by anybody but this function: how many to Postgres, which ones to Redis."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    number = urlsplit(place.redis).path.strip("/")
    with psycopg.connect(place.postgres) as connection, redis.Redis.from_url(place.redis) as client:
        gates = {one["id"] for one in client.client_list() if one["db"] == number} - {str(client.client_id())}
        only = connection.execute(count + " AND application_name = 'airflow-exclusive'").fetchone()
    assert only is not None
    return only[0], gates


def test_all_who_wait_for_a_tick_are_told_when_it_is_done(place: Place, looked: set[str]) -> None:
    lease = place.hold()

    async def crowd() -> list[Woken]:
        turns = [asyncio.create_task(place.turn(f"ticket {n}")) for n in range(20)]
        await until_all_wait(looked, turns)
        lease.finish()
        return await asyncio.gather(*turns)

    woken = played(crowd)
    assert {one.outcome for one in woken} == {"done"}
    assert "already done" in woken[0].why
    assert place.lock() is None


def test_a_dead_runners_job_goes_to_a_waiter_when_its_lease_lapses(
    place: Place, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # it asks as seldom as a triggerer does
    ttl, reserved_for = 6, 30
    lease = place.hold(NEXT_TICK, ttl=ttl)
    lease._keeper.stop()  # renews no more, and nothing is given back
    (dead,) = place.guard.status(JOB)
    assert dead.lease_expires_at is not None
    woken = played(lambda: place.turn("ticket", ttl=reserved_for))
    left, now = redis_client.pttl(lock_key(JOB)) / 1000, place.guard.statuses.clock()
    assert (woken.outcome, place.lock()) == ("free", "ticket")
    reserved_at = now - (reserved_for - left)
    assert 0 <= reserved_at - dead.lease_expires_at.timestamp() < 0.5 * ttl, "1.5 ttl after the last renewal"
    answer = place.guard.admit(JOB, run_key=TICK, elsewhere=Elsewhere(ticket="ticket"))
    assert isinstance(answer, Admitted)
    assert answer.took_over is not None
    answer.lease.finish()


def test_a_lock_that_an_ended_attempt_has_left_holds_no_waiter_up(place: Place) -> None:
    """Its release got lost, or a failover brought the lock back."""
    lease = place.hold(NEXT_TICK)
    lease.finish()
    assert place.guard.locks.acquire(JOB, lease.owner, 300).mine
    assert played(lambda: place.turn("ticket")).outcome == "free"
    assert place.lock() == "ticket"


def test_who_is_asking_keeps_its_lock_though_an_impatient_one_meets_it(place: Place) -> None:
    assert place.guard.locks.acquire(JOB, "somebody who is asking", 30).mine
    assert played(lambda: place.turn("ticket", wait=0, ttl=1)).outcome == "late"
    assert isinstance(place.guard.admit(JOB, run_key=TICK, ttl=1), Busy)
    assert place.lock() == "somebody who is asking"


def test_patience_ends(place: Place) -> None:
    lease = place.hold()
    woken = played(lambda: place.turn("ticket", wait=0.5))
    assert woken.outcome == "late"
    assert "busy: " in woken.why
    lease.finish()


def test_who_waits_for_its_own_attempt_does_not_wait_for_a_stranger_as_well(place: Place, looked: set[str]) -> None:
    own = place.hold(source=TASK)

    async def waiter() -> Woken:
        turn = asyncio.create_task(place.turn("ticket", wait=0))
        await until_all_wait(looked, [turn])
        await asyncio.to_thread(own.finish, "failed")
        stranger = await asyncio.to_thread(place.hold, NEXT_TICK)
        woken = await turn
        await asyncio.to_thread(stranger.finish)
        return woken

    # it may have been quicker than the stranger, who then waits for the reservation to lapse
    assert played(waiter).outcome in ("late", "free")


def test_a_lock_in_passing_ends_no_wait_however_long_the_own_attempt_took(
    place: Place, looked: set[str], redis_client: redis.Redis
) -> None:
    own = place.hold(source=TASK)

    async def waiter() -> Woken:
        turn = asyncio.create_task(place.turn("ticket", wait=0, waited=100))
        await until_all_wait(looked, [turn])
        redis_client.set(lock_key(JOB), "somebody in passing", px=1000)
        await asyncio.to_thread(own.finish, "failed")
        return await turn

    assert played(waiter).outcome == "free"


def test_a_waiter_that_is_moved_away_takes_nothing_and_leaves_nothing(place: Place, looked: set[str]) -> None:
    lease = place.hold()

    async def moved() -> None:
        turn = asyncio.create_task(place.turn("ticket"))
        await until_all_wait(looked, [turn])
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)

    played(moved)
    assert place.lock() == lease.owner
    assert connections(place)[0] == 1, "only the guard's own"
    lease.finish()


def test_a_waiter_that_is_moved_away_keeps_neither_triggerer_nor_the_others_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the server is silent, which the driver would first ask to cancel the statement."""
    monkeypatch.setattr(AsyncPostgresStatuses.__init__, "__kwdefaults__", {"answer_within": 8.0})

    async def moved(there: Place, hit: threading.Event) -> float:
        async with standby(there.postgres):  # somebody else goes on with the connection
            turn = asyncio.create_task(there.turn("ticket"))
            assert await asyncio.to_thread(hit.wait, 10)
            turn.cancel()
            began = time.monotonic()
            await asyncio.gather(turn, return_exceptions=True)
            return time.monotonic() - began

    with proxied(place) as (there, truth, _):
        fault = truth.arm(sql("look"), HANGING, seconds=30)
        assert played(lambda: moved(there, fault.hit)) < 4


def test_a_reservation_outlives_its_trigger(place: Place) -> None:
    async def ended() -> None:
        turn = asyncio.create_task(place.turn("ticket"))
        while not place.lock():
            await asyncio.sleep(0.01)
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)

    played(ended)
    assert place.lock() == "ticket"


TRUTH = {"look": sql("look"), "left_behind": sql("left_behind")}
GATE = {name: script(name, by_keeper=True) for name in ("acquire", "release")}


@disturbed({**TRUTH, **GATE}, kinds=[*FAULTS, HANGING])
def test_a_waiter_whose_question_is_disturbed_gets_its_turn_once(
    place: Place, step: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It meets the lock of an attempt that has ended, so it asks all there is to ask."""
    if kind == HANGING:
        monkeypatch.setattr(AsyncPostgresStatuses.__init__, "__kwdefaults__", {"answer_within": 1.0})
        monkeypatch.setattr(AsyncRedisLocks.__init__, "__kwdefaults__", {"timeout": 1.0})
    lease = place.hold(NEXT_TICK)
    lease.finish()
    place.guard.locks.acquire(JOB, lease.owner, 300)
    with proxied(place) as (there, truth, gated):
        fault = truth.arm(TRUTH[step], kind) if step in TRUTH else gated.arm(GATE[step], kind)
        woken = played(lambda: there.turn("ticket"))
    assert fault.hit.is_set()
    assert (woken.outcome, place.lock()) == ("free", "ticket")


@disturbed({"now": sql("now")})
def test_the_databases_clock_that_is_disturbed_is_asked_for_again(place: Place, step: str, kind: str) -> None:
    moment = place.guard.statuses.clock() - 100

    async def since(there: Place) -> float:
        async with standby(there.postgres) as waiting:
            return await waiting.since(moment)

    with proxied(place) as (there, truth, _):
        fault = truth.arm(sql(step), kind, seconds=0.3)
        began = played(lambda: since(there))
    assert fault.hit.is_set()
    assert 100 <= clock() - began < 160


@pytest.mark.parametrize("silent", ["look", "acquire"])
def test_a_server_that_says_nothing_stops_neither_the_loop_nor_the_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(AsyncPostgresStatuses.__init__, "__kwdefaults__", {"answer_within": 4.0})
    monkeypatch.setattr(AsyncRedisLocks.__init__, "__kwdefaults__", {"timeout": 4.0})

    async def watched(there: Place) -> tuple[Woken, float]:
        longest, last = 0.0, time.monotonic()
        turn = asyncio.create_task(there.turn("ticket"))
        while not turn.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return await turn, longest

    with proxied(place) as (there, truth, gated):
        fault = (
            truth.arm(sql("look"), HANGING, seconds=30)
            if silent == "look"
            else gated.arm(script("acquire", by_keeper=True), HANGING, seconds=30)
        )
        woken, longest = played(lambda: watched(there))
    assert fault.hit.is_set()
    assert woken.outcome == "free"
    assert longest < 3, "less than the server was waited for"


def test_a_gate_that_says_nothing_is_waited_for_by_all_waiters_at_once() -> None:
    async def asked(locks: AsyncRedisLocks) -> list[LockAnswer | BaseException]:
        try:
            waiters = [locks.acquire(f"job {n}", "ticket", 30) for n in range(5)]
            first = await asyncio.gather(*waiters, return_exceptions=True)
            return [*first, *await asyncio.gather(locks.acquire(JOB, "ticket", 30), return_exceptions=True)]
        finally:
            await locks.close()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        answers = asyncio.run(asked(AsyncRedisLocks(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout=0.1)))
        silent.setblocking(False)
        for _ in range(2 * 2):  # the five, and who came after them
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 6
    assert {str(answer) for answer in answers} == {str(answers[0])}


def test_what_trying_again_does_not_cure_is_told_at_once(place: Place, empty_database: str) -> None:
    place.postgres = empty_database
    with pytest.raises(StoreMisconfigured, match="run `airflow-exclusive init`"):
        played(lambda: place.turn("ticket"))


def test_looking_takes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, looked = place.hold(), count_looks(monkeypatch)
    asked = Request(JOB, TICK, "", "triggerer")

    async def both() -> tuple[Woken, Woken]:
        async with standby(place.postgres) as waiting:
            free = asyncio.create_task(waiting.seen(replace(asked, run_key=NEXT_TICK), free=True, every=0.1))
            done = asyncio.create_task(waiting.seen(asked, free=False, every=0.1))
            while len(looked) < 6:
                await asyncio.sleep(0.01)
            assert not free.done()
            assert not done.done()
            await asyncio.to_thread(lease.finish)
            return await free, await done

    assert [woken.outcome for woken in played(both)] == ["free", "done"]
    assert place.lock() is None
    assert isinstance(place.guard.peek(JOB, run_key=TICK), AlreadyDone)
