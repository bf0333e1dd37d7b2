"""`JobGuard`: the guard of `core` on a real Redis, a real Postgres and a keeper process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any

from airflow_exclusive import node
from airflow_exclusive.core.guard import Guard
from airflow_exclusive.core.lease import Identity
from airflow_exclusive.keeper.handle import KeeperAddress, start_keeper
from airflow_exclusive.stores.postgres import effects
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA
from airflow_exclusive.stores.postgres.statuses import PostgresStatuses
from airflow_exclusive.stores.redis.locks import RedisLocks

ANSWER_WITHIN = 10.0
"""Seconds after which a connection to Postgres without an answer counts as broken."""


class JobGuard(Guard):
    """Admission to jobs, by one Redis and one Postgres that all nodes share.

    >>> guard = JobGuard(redis="redis://localhost:6379/0", postgres="postgresql://localhost/exclusive")
    >>> with guard.hold("backup_daily", run_key="2013-01-02T00:00:00Z") as lease:   # doctest: +SKIP
    ...     backup(lease.token)

    redis: URL, see `stores.redis.address`. postgres: URL or libpq connection string. schema: where `init` put the
    tables.
    Connections are made on first use; `close()` (or the end of `with guard:`) ends them.
    """

    def __init__(self, *, redis: str, postgres: str, schema: str = DEFAULT_SCHEMA, node_id: str | None = None) -> None:
        self._redis = RedisLocks(redis)
        self._database = Database(postgres, schema=schema, answer_within=ANSWER_WITHIN)
        super().__init__(
            locks=self._redis,
            statuses=PostgresStatuses(self._database),
            keepers=partial(start_keeper, KeeperAddress(redis=redis, postgres=postgres, schema=schema)),
            effects=partial(_effects, schema),
            node_id=node_id or node.node_id(),
            clock=node.clock,
            schema=schema,
        )

    def close(self) -> None:
        self._redis.close()
        self._database.close()

    def __enter__(self) -> JobGuard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _effects(schema: str, lease: Identity, conn: Any, step: str) -> AbstractContextManager[effects.EffectTransaction]:
    return effects.transaction(lease, conn, step, schema=schema)
