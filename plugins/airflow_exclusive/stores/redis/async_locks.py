"""The gate for waiters that share an event loop: one connection for all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.errors import StoreUnavailable
from airflow_exclusive.core.ports import LockAnswer
from airflow_exclusive.stores.redacted import redacted
from airflow_exclusive.stores.redis.address import Address, clients
from airflow_exclusive.stores.redis.locks import ANSWER_WITHIN, TRIES_AGAIN, ErrorsMapped, lock_answer, pool_of
from airflow_exclusive.stores.redis.scripts import WAKE_UP_LASTS_MS, lock_key, lua, milliseconds, wake_key

if TYPE_CHECKING:
    import redis.asyncio

log = logging.getLogger(__name__)


class AsyncRedisLocks:
    """`AsyncLocks` at `url` (see `address.py`)."""

    def __init__(self, url: str, *, timeout: float = ANSWER_WITHIN) -> None:
        self._address = Address.parse(url)
        self._url, self._timeout = url, timeout
        self._one_by_one = asyncio.Lock()
        self._silent: tuple[float, str] | None = None
        """When and why the last request that failed did so. Who has waited for that one need not wait as long again."""

    async def acquire(self, job_name: str, owner: str, ttl: float) -> LockAnswer:
        return lock_answer(await self._eval("acquire", [lock_key(job_name)], [owner, milliseconds(ttl)]))

    async def release(self, job_name: str, owner: str) -> bool:
        keys = [lock_key(job_name), wake_key(job_name)]
        return bool(await self._eval("release", keys, [owner, 0, WAKE_UP_LASTS_MS]))

    async def close(self) -> None:
        """What can't be closed in time is left: nobody's answer is lost for that."""
        from redis.exceptions import RedisError

        if "_client" not in self.__dict__:
            return
        closings = [client.aclose for client in clients(self._client)]
        if (nodes := getattr(self._client, "nodes_manager", None)) is not None:
            # A cluster's client that has lost a node takes itself for closed, and leaves the other nodes' connections.
            closings += [nodes.aclose, partial(nodes.aclose, "startup_nodes")]
        for close in closings:
            try:
                await close()
            except (RedisError, OSError) as error:
                log.debug("a connection to Redis at %s isn't closed: %s", redacted(self._url), error)

    @cached_property
    def _client(self) -> redis.asyncio.Redis:
        return self._address.connect_async(timeout=self._timeout, tries_again=TRIES_AGAIN)

    async def _eval(self, script: str, keys: list[str], args: list[Any]) -> Any:
        asked = time.monotonic()
        async with self._one_by_one:
            if self._silent and self._silent[0] >= asked:
                raise StoreUnavailable(self._silent[1])
            try:
                with ErrorsMapped(self._url, may_ask=False):
                    return await self._evaluated("EVAL", lua(script), len(keys), *keys, *args)
            except StoreUnavailable as error:
                self._silent = time.monotonic(), str(error)
                raise

    async def _evaluated(self, *command: Any) -> Any:
        from redis.exceptions import ReadOnlyError

        try:
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except ReadOnlyError:
            if (pool := pool_of(self._client)) is None:
                raise
            await pool.disconnect()
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
