"""The contract of the gate on a cluster of three masters, and a run on it while one of them is away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from airflow_exclusive.keeper.kept_lock import KeptLock
from airflow_exclusive.stores.redis.checks import check
from airflow_exclusive.stores.redis.locks import RedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key, wake_key
from tests.contract.test_redis_locks import (  # noqa: F401
    JOB,
    KEY,
    gate,
    locks,
    test_a_key_of_somebody_elses_making_is_told,
    test_a_release_leaves_no_key_behind_for_long,
    test_a_release_wakes_one_waiter_and_no_more,
    test_a_server_that_forgot_the_scripts_gets_them_again,
    test_a_ticket_is_traded_for_a_lock_once,
    test_a_wake_up_that_came_before_the_waiter_is_not_lost,
    test_among_many_at_once_one_gets_the_lock,
    test_another_one_learns_who_has_it_and_for_how_long,
    test_kept_for_a_while_it_ends_then_and_wakes_nobody,
    test_only_the_owner_gives_the_lock_back,
    test_the_first_one_gets_the_lock_with_its_expiry,
    test_the_keeper_keeps_the_lock_of_its_owner,
    test_the_keeper_leaves_the_lock_of_another_owner_alone,
    test_the_keeper_puts_back_a_lock_that_redis_lost,
    test_the_lock_ends_by_itself,
    test_two_jobs_do_not_know_each_other,
    test_who_asks_again_after_a_lost_reply_finds_its_own_lock,
    test_whose_lock_it_is_can_be_seen,
)
from tests.contract.test_standby import (  # noqa: F401
    place,
    quick,
    test_a_reservation_keeps_everybody_else_out_and_lapses_when_nobody_comes_for_it,
    test_of_two_workers_that_were_woken_for_one_waiter_one_is_admitted,
    test_two_copies_of_a_trigger_are_one_waiter,
)
from tests.support import ledger
from tests.support.proxied_node import Node, Truth
from tests.support.redis_groups import RedisCluster
from tests.support.waiting import eventually


@pytest.fixture
def redis_url(cluster: RedisCluster) -> Iterator[str]:
    yield cluster.url
    for server in cluster.servers:
        server.client.flushall()


@pytest.fixture
def client(cluster: RedisCluster, redis_url: str) -> redis.Redis:
    """The master that has the job."""
    return cluster.home(KEY).client


def test_jobs_are_spread_over_the_masters_and_all_keys_of_one_are_on_the_same(
    locks: RedisLocks,  # noqa: F811
    cluster: RedisCluster,
) -> None:
    homes = set()
    for n in range(20):
        job = f"job {n} {{x}}"
        assert locks.acquire(job, "a", 30).mine
        assert locks.release(job, "a")
        assert cluster.home(wake_key(job)) is cluster.home(lock_key(job))
        homes.add(cluster.home(lock_key(job)).port)
    assert len(homes) == 3


def test_a_run_with_renewals_survives_a_restart_of_its_master(
    cluster: RedisCluster, redis_url: str, database: str
) -> None:
    home, beside = cluster.home(lock_key(ledger.JOB)), f"{lock_key(ledger.JOB)} of nobody"
    truth = Truth(redis_url, database)
    node = Node(redis_url, database, ttl=8)

    def restart(lease: object) -> None:
        truth.wait_for_renewals(1)
        home.client.set(beside, "kept")
        home.kill()
        home.start()
        cluster.wait()
        assert home.client.get(beside) is None  # nothing was kept
        eventually(lambda: home.client.get(lock_key(ledger.JOB)) is not None, 60)

    node.before = restart
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_doctor_looks_at_each_master(
    locks: RedisLocks,  # noqa: F811
    cluster: RedisCluster,
) -> None:
    server = cluster.servers[1]
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        findings = list(check(locks))
    finally:
        server.client.config_set("maxmemory-policy", "noeviction")
    masters = {f"Redis 127.0.0.1:{server.port}" for server in cluster.servers}
    assert {found.subject for found in findings} == {"Redis", *masters}
    assert [found.subject for found in findings if found.level == "warning"] == [f"Redis 127.0.0.1:{server.port}"]


def test_the_keeper_finds_its_way_without_the_first_node(cluster: RedisCluster) -> None:
    urls = cluster.url.replace("redis+cluster://", "redis+cluster://127.0.0.1:1,")
    assert KeptLock(urls, JOB, "a", timeout=2).renew(30)
