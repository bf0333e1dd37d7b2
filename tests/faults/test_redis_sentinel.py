"""A failover by Sentinel to a replica that never saw the lock: Postgres refuses the second run."""

from __future__ import annotations

import pytest

from airflow_exclusive.core.admission import Busy
from airflow_exclusive.core.errors import StoreUnavailable
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.stores.redis.locks import RedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import Node, Truth, settings
from tests.support.redis_groups import GuardedPair
from tests.support.waiting import eventually


def test_a_failover_to_a_replica_that_never_saw_the_lock_causes_no_second_run(
    guarded_pair: GuardedPair, database: str
) -> None:
    truth = Truth(guarded_pair.url, database)
    node = Node(guarded_pair.url, database, ttl=12)
    answers: list[object] = []

    def fail_over(lease: Lease) -> None:
        assert guarded_pair.master.client.get(lock_key(JOB)) == lease.owner
        guarded_pair.fail_over()
        assert guarded_pair.replica.client.get(lock_key(JOB)) is None
        with JobGuard(redis=guarded_pair.url, postgres=database) as other:
            answers.append(other.admit(JOB, run_key=TICK, settings=settings()))
        # The keeper finds the new master and heals the lock there.
        eventually(lambda: guarded_pair.replica.client.get(lock_key(JOB)) == lease.owner, 12)
        lease.ensure_held()

    guarded_pair.cut_replication()
    node.before = fail_over
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    assert [type(answer) for answer in answers] == [Busy]
    truth.check_done_once()


def test_a_master_that_nobody_knows_is_told(guarded_pair: GuardedPair) -> None:
    locks = RedisLocks(guarded_pair.url.replace("the-gate", "another"), timeout=2)
    with pytest.raises(StoreUnavailable, match="No master found for 'another'"):
        locks.acquire(JOB, "a", 30)
    locks.close()
