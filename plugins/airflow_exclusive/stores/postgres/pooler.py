"""Whether a pooler stands between us and the server, and how it shares out the server's connections.

No pooler says so. What a client can see of each mode:

    none         the process that greeted us is the one that answers; a pooler makes up the number in its greeting
    statement    a transaction of several statements is broken off
    transaction  a process of the server answers two connections that are both open, or a connection gets another one
    session      that doesn't come about in `_ROUNDS` rounds: likely, not certain, for a busy pool may hide it
    unknown      a connection gets no answer while others are open: a full pool, in whichever mode
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg

from airflow_exclusive.stores.postgres.connection import connect
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, statement

Mode = Literal["none", "statement", "transaction", "session", "unknown"]

_ROUNDS = 10
_ANSWER_WITHIN = 3.0


def mode(dsn: str) -> Mode:
    """Found out on up to two connections, open for a moment. Raises `psycopg.Error` where there is none to be had."""
    with _connected(dsn) as first:
        if _answering(first) == first.info.backend_pid:
            return "none"
        try:
            if _breaks_transactions(first):
                return "statement"
            with _connected(dsn) as second:
                return "transaction" if _share(first, second) else "session"
        except psycopg.OperationalError:
            return "unknown"


def _share(first: psycopg.Connection[Any], second: psycopg.Connection[Any]) -> bool:
    """Whether the server's processes go from one to the other."""
    of_first, of_second = set(), set()
    for _ in range(_ROUNDS):
        of_first.add(_answering(first))
        of_second.add(_answering(second))
        if len(of_first) > 1 or len(of_second) > 1 or of_first & of_second:
            return True
    return False


def _breaks_transactions(connection: psycopg.Connection[Any]) -> bool:
    try:
        with connection.transaction():
            _answering(connection)
    except psycopg.OperationalError as error:
        if "statement pooling" in str(error):
            return True
        raise
    return False


def _answering(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(statement("doctor_backend", DEFAULT_SCHEMA).encode()).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    connection = connect(dsn, connect_timeout=5, answer_within=_ANSWER_WITHIN)
    try:
        yield connection
    finally:
        connection.close()
