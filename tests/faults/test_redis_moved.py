"""An address that leads to another server from one moment on, while the one before lives on as a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.errors import StoreUnavailable
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.stores.redis.async_locks import AsyncRedisLocks
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import Proxied, proxied, settings
from tests.support.servers import SystemRedis


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
    system_redis.client.flushall()


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


def test_so_is_a_waiter_in_the_triggerer(world: Proxied, replica: tuple[SystemRedis, SystemRedis]) -> None:
    async def asked() -> None:
        locks = AsyncRedisLocks(world.node.redis)
        await locks.acquire("another", "somebody", 1)
        move(world, *replica)
        with pytest.raises(StoreUnavailable, match="read only replica"):
            await locks.acquire(JOB, "somebody", 1)
        assert (await locks.acquire(JOB, "somebody", 1)).mine
        await locks.close()

    asyncio.run(asked())
