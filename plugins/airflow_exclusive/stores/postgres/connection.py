"""The driver's connection, with a limit to how long it waits for an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any

import psycopg

_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "client_encoding": "UTF8",  # by itself it is the server's or the environment's, and the driver may answer in bytes
    "prepare_threshold": None,
    "application_name": "airflow-exclusive",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
}
_LEGIBLE = "SET datestyle = 'ISO'"
"""One of the settings that a pooler in transaction mode keeps for each of its clients."""


class ImpatientConnection(psycopg.Connection[Any]):
    """Raises `OperationalError` when a statement isn't answered within `answer_within` seconds.

    The system's own limits don't see a server that is frozen: its machine goes on acknowledging what is sent.
    """

    answer_within = math.inf

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        return super().wait(_limited(gen, self.answer_within), *args, **kwargs)


def connect(dsn: str, *, connect_timeout: int, answer_within: float = math.inf) -> ImpatientConnection:
    connection = ImpatientConnection.connect(dsn, connect_timeout=connect_timeout, **_OPTIONS)
    connection.answer_within = answer_within
    try:
        if not _tells_time(connection):
            connection.execute(_LEGIBLE)
    except BaseException:
        connection.close()
        raise
    return connection


class ImpatientAsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for an event loop."""

    answer_within = math.inf

    async def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        return await super().wait(_limited(gen, self.answer_within), *args, **kwargs)


async def connect_async(dsn: str, *, connect_timeout: int, answer_within: float) -> ImpatientAsyncConnection:
    connection = await ImpatientAsyncConnection.connect(dsn, connect_timeout=connect_timeout, **_OPTIONS)
    connection.answer_within = answer_within
    try:
        if not _tells_time(connection):
            await connection.execute(_LEGIBLE)
    except BaseException:
        await connection.close()
        raise
    return connection


def _tells_time(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the driver can read the server's times: role or database may have another style."""
    return (connection.info.parameter_status("DateStyle") or "").startswith("ISO")


def _limited(gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """The driver's generator: it yields what it waits for, and is sent what is ready, every now and then nothing."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise psycopg.OperationalError(f"no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
