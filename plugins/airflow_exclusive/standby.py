"""Waiters that share an event loop share what they wait with: one connection for each store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from airflow_exclusive import node
from airflow_exclusive.core.standby import Standby
from airflow_exclusive.stores.postgres.async_statuses import AsyncPostgresStatuses
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA
from airflow_exclusive.stores.redis.async_locks import AsyncRedisLocks


class _Store(Protocol):
    async def close(self) -> None: ...


AnyStore = TypeVar("AnyStore", bound=_Store)

_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Any, ...], _Shared]] = WeakKeyDictionary()


class _Shared:
    def __init__(self, store: Any) -> None:
        self.store, self.users = store, 0


@asynccontextmanager
async def shared(kind: type[AnyStore], *address: str) -> AsyncIterator[AnyStore]:
    """The event loop's only store of that kind and address; closed when nobody uses it any more."""
    stores = _open.setdefault(asyncio.get_running_loop(), {})
    key = (kind, *address)
    if key not in stores:
        stores[key] = _Shared(kind(*address))
    mine = stores[key]
    mine.users += 1
    try:
        yield mine.store
    finally:
        mine.users -= 1
        if not mine.users:
            del stores[key]
            await asyncio.shield(mine.store.close())  # who is cancelled meanwhile doesn't wait, but it is closed


@asynccontextmanager
async def standby(postgres: str, schema: str = DEFAULT_SCHEMA) -> AsyncIterator[Standby]:
    """What waits at this status database."""
    async with shared(AsyncPostgresStatuses, postgres, schema) as statuses:
        yield Standby(statuses, node.clock, asyncio.sleep)


@asynccontextmanager
async def gate(redis: str) -> AsyncIterator[AsyncRedisLocks]:
    """The locks that waiters reserve."""
    async with shared(AsyncRedisLocks, redis) as locks:
        yield locks
