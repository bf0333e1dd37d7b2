"""The truth for waiters that share an event loop: one connection for all of them, that comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.admission import Verdict, decide
from airflow_exclusive.core.job import Request
from airflow_exclusive.core.ports import LockAnswer
from airflow_exclusive.stores.postgres.address import check_address
from airflow_exclusive.stores.postgres.database import ErrorsMapped
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, check_schema, statement
from airflow_exclusive.stores.postgres.statuses import params_of

if TYPE_CHECKING:
    import psycopg


class AsyncPostgresStatuses:
    """`AsyncStatuses`: looks, and never writes.

    answer_within: seconds after which a connection that says nothing is given up.
    """

    def __init__(self, dsn: str, schema: str = DEFAULT_SCHEMA, *, answer_within: float = 10.0) -> None:
        self._dsn, self._schema, self._answer_within = check_address(dsn), check_schema(schema), answer_within
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._one_by_one = asyncio.Lock()

    async def look(self, request: Request) -> Verdict:
        (row,) = await self._run("look", {"now": None, **params_of(request)})
        return decide(request, row)

    async def left_behind(self, lock: LockAnswer, longest: float) -> bool:
        params = {"now": None, "owner": lock.owner, "seconds_left": lock.seconds_left, "longest": longest}
        (row,) = await self._run("left_behind", params)
        return bool(row["left_behind"])

    async def clock(self) -> float:
        (row,) = await self._run("now", {"now": None})
        return float(row["now"])

    async def close(self) -> None:
        async with self._one_by_one:
            await self._drop_connection()

    async def _run(self, name: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        # Cancelled in the middle of a statement, psycopg would cancel that at the server, which may take seconds and
        # the connection that others use as well. So it goes on, though nobody waits for it any more.
        asked = asyncio.ensure_future(self._answered(name, params))
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(asked)

    async def _answered(self, name: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        async with self._one_by_one:
            try:
                with ErrorsMapped(self._dsn, self._schema, may_ask=False):
                    return await self._execute(statement(name, self._schema), params)
            except BaseException:
                await self._drop_connection()
                raise

    async def _execute(self, text: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        from psycopg import AsyncClientCursor
        from psycopg.rows import dict_row

        async with AsyncClientCursor(await self._connected(), row_factory=dict_row) as cursor:
            await cursor.execute(text.encode(), params)
            return await cursor.fetchall()

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        from airflow_exclusive.stores.postgres.connection import connect_async

        if self._connection is None or self._connection.closed:
            self._connection = await connect_async(self._dsn, connect_timeout=5, answer_within=self._answer_within)
        return self._connection

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
