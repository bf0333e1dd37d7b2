"""What waits in the triggerer: for a job's admission, or for what the ledger says about a tick.

A trigger may be ended and started again anywhere, or run twice: it releases nothing, and all that makes it the same
waiter again is in its arguments, no address and no secret among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow_exclusive.airflow.compat_triggers import BaseTrigger, TriggerEvent
from airflow_exclusive.core.errors import ExclusiveError
from airflow_exclusive.core.job import Request, Source
from airflow_exclusive.core.settings import OnRedisDown

if TYPE_CHECKING:
    from airflow_exclusive.core.standby import Woken


class _Trigger(BaseTrigger):
    """Its arguments come back as its attributes; the event tells `outcome` and `why`.

    absence: seconds for which the task has to stay away, slept anew wherever the trigger is started.
    """

    def __init__(
        self,
        *,
        job_name: str,
        run_key: str,
        source: dict[str, Any],
        postgres_conn_id: str,
        schema: str,
        absence: float = 0.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_name, self.run_key, self.source = job_name, run_key, source
        self.postgres_conn_id, self.schema, self.absence = postgres_conn_id, schema, absence

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", self._arguments()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(self.absence)
        try:
            woken = await self._woken()
            told = {"outcome": woken.outcome, "why": woken.why}
        except ExclusiveError as error:  # nothing that going on trying would cure
            told = {"outcome": "error", "why": str(error)}
        yield TriggerEvent({**told, **self._brought_back()})  # type: ignore[no-untyped-call]

    async def _woken(self) -> Woken:
        raise NotImplementedError

    def _brought_back(self) -> dict[str, Any]:
        """What the task is to know when it goes on."""
        return {}

    def _arguments(self) -> dict[str, Any]:
        names = ("job_name", "run_key", "source", "postgres_conn_id", "schema", "absence")
        return {name: getattr(self, name) for name in names}

    def _request(self, owner: str = "") -> Request:
        return Request(self.job_name, self.run_key, owner, "triggerer", Source(**self.source))


class AdmissionTrigger(_Trigger):
    """Waits for a task that wants the job, and reserves its lock under `ticket` when it is free.

    began: when the task asked for the first time, by the status database's clock: all nodes share that one. None: it
        did so while that didn't answer; then it is as if it had asked for the first time here.
    wait: seconds from then on for which others are waited for, None: without end.
    """

    def __init__(
        self,
        *,
        ticket: str,
        began: float | None,
        wait: float | None,
        ttl: float,
        on_redis_down: OnRedisDown,
        redis_conn_id: str,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.ticket, self.began, self.wait, self.ttl = ticket, began, wait, ttl
        self.on_redis_down, self.redis_conn_id = on_redis_down, redis_conn_id

    async def _woken(self) -> Woken:
        from airflow_exclusive.airflow.connections import async_postgres_dsn, async_redis_url
        from airflow_exclusive.core.patience import Patience
        from airflow_exclusive.standby import gate, standby

        redis, postgres = await async_redis_url(self.redis_conn_id), await async_postgres_dsn(self.postgres_conn_id)
        request = self._request(self.ticket)
        wait = float("inf") if self.wait is None else self.wait
        async with gate(redis) as locks, standby(postgres, self.schema) as waiting:
            if self.began is None:
                here = waiting.clock()
                self.began = await waiting.now() - (waiting.clock() - here)
            patience = Patience(request.source, await waiting.since(self.began), wait, self.ttl)
            return await waiting.turn(request, patience, locks, self.on_redis_down)

    def _brought_back(self) -> dict[str, Any]:
        return {"ticket": self.ticket, "began": self.began}

    def _arguments(self) -> dict[str, Any]:
        names = ("ticket", "began", "wait", "ttl", "on_redis_down", "redis_conn_id")
        return super()._arguments() | {name: getattr(self, name) for name in names}


class TickTrigger(_Trigger):
    """Waits until a tick is done, or with `free` until nobody runs the job; asks every `poke_interval` seconds."""

    def __init__(self, *, free: bool, poke_interval: float, **common: Any) -> None:
        super().__init__(**common)
        self.free, self.poke_interval = free, poke_interval

    async def _woken(self) -> Woken:
        from airflow_exclusive.airflow.connections import async_postgres_dsn
        from airflow_exclusive.standby import standby

        async with standby(await async_postgres_dsn(self.postgres_conn_id), self.schema) as waiting:
            return await waiting.seen(self._request(), free=self.free, every=self.poke_interval)

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"free": self.free, "poke_interval": self.poke_interval}
