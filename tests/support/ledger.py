"""Asking the status store at a moment of the test's choosing."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_exclusive.core.admission import Claim
from airflow_exclusive.core.job import Request, Source, new_owner
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.stores.postgres.async_statuses import AsyncPostgresStatuses
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.statuses import PostgresStatuses

JOB = "备份 'daily' {x}:%s"
TICK = "2013-01-02T00:00:00Z"
NEXT_TICK = "2013-01-03T00:00:00Z"
START = datetime(2013, 1, 2, tzinfo=timezone.utc)
TASK = Source("full", "flights", "scheduled__1", "load", -1, try_number=1)


def request(run_key: str = TICK, *, job: str = JOB, node: str = "node-a", **changes: Any) -> Request:
    """A request of a new owner."""
    return Request(job, run_key, new_owner(), node, **changes)


class Ledger:
    """The store as it answers at `second` seconds after `START`, on a connection of its own."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.database = Database(dsn, **options)
        self.statuses = PostgresStatuses(self.database)

    def at(self, second: float) -> PostgresStatuses:
        self.statuses.now = START + timedelta(seconds=second)
        return self.statuses

    def claim(self, second: float, asked: Request, **settings: Any) -> Claim:
        """A claim that must be given."""
        answer = self.at(second).claim(asked, LeaseSettings(**settings))
        assert isinstance(answer, Claim), answer
        return answer

    def done(self, second: float, asked: Request, **settings: Any) -> Claim:
        """The tick, claimed and finished a second later."""
        claim = self.claim(second, asked, **settings)
        assert self.at(second + 1).finish(claim, "success", None, 0) == "success"
        return claim

    def outcomes(self, job: str = JOB) -> list[tuple[int, int, int, str]]:
        """Token, generation, attempt and outcome of the attempts, oldest first."""
        attempts = reversed(self.statuses.history(job, None, 1000))
        return [(run.fencing_token, run.generation, run.attempt, run.outcome) for run in attempts]

    def close(self) -> None:
        self.database.close()


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the triggerer looked at the ledger, on the monotonic clock."""
    looked: list[float] = []
    look = AsyncPostgresStatuses.look

    async def noted(self: AsyncPostgresStatuses, request: Any) -> Any:
        looked.append(time.monotonic())
        return await look(self, request)

    monkeypatch.setattr(AsyncPostgresStatuses, "look", noted)
    return looked
