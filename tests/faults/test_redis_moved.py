"""An address that leads to another server from one moment on, while the one before lives on as a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.stores.redis.async_locks import AsyncRedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import Proxied, proxied, settings
from tests.support.servers import SystemRedis
from tests.support.waiting import eventually

KEY = lock_key(JOB)


@pytest.fixture
def world(breakable_redis: SystemRedis, database: str) -> Iterator[Proxied]:
    with proxied(breakable_redis.url(), database) as made:
        yield made


def move(world: Proxied, old: SystemRedis, new: SystemRedis) -> None:
    old.client.replicaof("127.0.0.1", new.port)
    world.redis.lead_to("127.0.0.1", new.port)


@pytest.fixture
def replica(breakable_redis: SystemRedis, system_redis: SystemRedis) -> Iterator[tuple[SystemRedis, SystemRedis]]:
    yield breakable_redis, system_redis
    breakable_redis.client.replicaof("NO", "ONE")
    for server in (breakable_redis, system_redis):
        server.client.flushall()


def test_who_asks_over_an_old_connection_is_led_to_the_new_master(
    world: Proxied, replica: tuple[SystemRedis, SystemRedis]
) -> None:
    with JobGuard(redis=world.node.redis, postgres=world.node.postgres) as guard:
        guard.locks.acquire("another", "somebody", 1)
        move(world, *replica)
        admission = guard.admit(JOB, run_key=TICK, settings=settings())
        assert isinstance(admission, Admitted)
        admission.lease.finish()
    assert world.truth.outcomes() == ["success"]


def test_who_has_ended_frees_its_lock_on_the_new_master(
    world: Proxied, replica: tuple[SystemRedis, SystemRedis], caplog: pytest.LogCaptureFixture
) -> None:
    _, new = replica

    def moved(lease: Lease) -> None:
        world.truth.wait_for_renewals(1)  # by the keeper, on its own connection: the next one is long after the end
        new.client.set(KEY, lease.owner, px=60_000)  # as the replica had it that is the master now
        move(world, *replica)

    world.node.ttl, world.node.before = 30, moved
    world.node.run()
    assert world.truth.outcomes() == ["success"]
    assert new.client.get(KEY) is None
    assert not caplog.records


def test_so_is_the_keeper_of_a_job_that_runs(world: Proxied, replica: tuple[SystemRedis, SystemRedis]) -> None:
    old, new = replica

    def moved(lease: Lease) -> None:
        world.truth.wait_for_renewals(1)  # over the connection that it keeps
        eventually(lambda: 0 < old.client.pttl(KEY) <= 1000 * world.node.ttl)
        move(world, old, new)
        assert new.client.get(KEY) is None
        world.truth.wait_for_renewals(2)
        eventually(lambda: new.client.get(KEY) == lease.owner, world.node.ttl)
        lease.ensure_held()

    world.node.ttl, world.node.before = 6, moved
    world.node.run()
    assert (world.node.errors, world.node.ran) == ([], [1])
    assert world.truth.outcomes() == ["success"]


def test_so_is_a_waiter_in_the_triggerer(world: Proxied, replica: tuple[SystemRedis, SystemRedis]) -> None:
    async def asked() -> None:
        locks = AsyncRedisLocks(world.node.redis)
        await locks.acquire("another", "somebody", 1)
        move(world, *replica)
        assert (await locks.acquire(JOB, "somebody", 1)).mine
        await locks.close()

    asyncio.run(asked())
