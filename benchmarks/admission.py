"""What an admission costs over the round trips that it can't do without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import count

import psycopg

from airflow_exclusive.core.admission import Admitted, Claim
from airflow_exclusive.core.guard import Guard
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import ANSWER_WITHIN, JobGuard
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.schema import upgrade
from airflow_exclusive.stores.redis.locks import RedisLocks
from benchmarks.figures import Figure, median_pair_ms

ROUNDS = 2000
STARTS = 60
_SCHEMA = "bench_round_trips"
_TAKE = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', 30000)"
_GIVE_BACK = "return redis.call('DEL', KEYS[1])"


class _NoKeeper:
    """Stands in where the keeper's process isn't what is measured."""

    trusted_for = 1.0
    why_lost = ""
    page = ""

    def stop(self) -> None: ...


def measure(redis_url: str, dsn: str) -> Iterator[Figure]:
    yield _round_trips(redis_url, dsn)
    yield _body_start(redis_url, dsn)


def _round_trips(redis_url: str, dsn: str) -> Figure:
    # Tables of its own: on some that were just analyzed with a few rows in them, a connection may plan for those few,
    # and then read all of the thousands that follow.
    upgrade(dsn, schema=_SCHEMA)
    with JobGuard(redis=redis_url, postgres=dsn, schema=_SCHEMA) as guard:
        bare = Guard(guard.locks, guard.statuses, no_keeper, guard.effects, guard.node_id, guard.clock)
        ticks = count()

        def guarded() -> None:
            admission = bare.admit("bench_round_trips", run_key=f"tick {next(ticks)}")
            assert isinstance(admission, Admitted)
            admission.lease.finish()

        # Clients like the guard's own: the same retries, limits and ways to send.
        locks, database = RedisLocks(redis_url), Database(dsn, answer_within=ANSWER_WITHIN)
        take, give_back = (locks.client.script_load(script) for script in (_TAKE, _GIVE_BACK))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS bench_floor (id int PRIMARY KEY, n bigint)")
            connection.execute("INSERT INTO bench_floor VALUES (1, 0) ON CONFLICT DO NOTHING")

        def floor() -> None:
            locks.client.evalsha(take, 1, "bench:floor", "me")
            for _ in range(2):
                database.run_text("UPDATE bench_floor SET n = n + 1 WHERE id = %(id)s", {"id": 1})
            locks.client.evalsha(give_back, 1, "bench:floor")

        spent, least = median_pair_ms(guarded, floor, times=ROUNDS)
        database.close()
        locks.close()
    return Figure(
        "admit, finish and release over the bare round trips",
        spent / least,
        1.3,
        "x",
        f"{spent:.2f} ms over {least:.2f} ms for 2 Redis scripts and 2 Postgres commits with the same clients",
    )


def _body_start(redis_url: str, dsn: str) -> Figure:
    """From the reply to the claim's commit to the first line of the job: starting the keeper lies in between."""
    with JobGuard(redis=redis_url, postgres=dsn) as guard:
        start_keeper, committed = guard.keepers, 0.0

        def noting(claim: Claim, settings: LeaseSettings, sent_at: float) -> object:
            nonlocal committed
            committed = time.perf_counter()
            return start_keeper(claim, settings, sent_at)

        guard.keepers = noting  # type: ignore[assignment]
        waits = []
        for turn in range(STARTS):
            with guard.hold("bench_body_start", run_key=f"tick {turn}"):
                waits.append((time.perf_counter() - committed) * 1000)
    return Figure(
        "the body starts after the claim's commit",
        statistics.median(waits),
        10,
        "ms",
        f"largest of {len(waits)}: {max(waits):.1f} ms",
    )


def no_keeper(*_: object) -> _NoKeeper:
    """What stands in where a guard would start a keeper."""
    return _NoKeeper()
