"""One connection to Postgres that comes back by itself, with driver errors turned into ours."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, StoreMisconfigured, StoreUnavailable
from airflow_exclusive.stores.peer import PING, who_answers
from airflow_exclusive.stores.postgres.address import check_address, one_server
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, check_schema, statement
from airflow_exclusive.stores.redacted import redacted

if TYPE_CHECKING:
    from airflow_exclusive.stores.postgres.connection import ImpatientConnection

# A refused login has no SQLSTATE in libpq's report, only its text. What isn't known here counts as unavailable.
_NO_LOGIN = re.compile(
    r"FATAL: .*(password authentication failed|no pg_hba\.conf entry|(role|database|user) \".*\" does not exist"
    r"|permission denied for database|unsupported startup parameter)"
    r"|no password supplied|invalid integer value|invalid port number"
)

_NO_GREETING = re.compile(r"timeout expired|invalid response|expected authentication request")
"""What connecting to a server of another kind ends with: it waits for more, or answers in its own way."""


_of_parents: list[Any] = []


class Database:
    """Runs the statements of `sql/` in autocommit mode, each file as one message and one transaction.

    retry_for: seconds for which a statement whose connection broke is sent again (they are all safe to send twice),
    from its first failure on: one that waited in vain for an answer is sent once more whatever that took.
    answer_within: seconds until a connection with no answer counts as broken.
    connect_timeout: seconds.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = DEFAULT_SCHEMA,
        retry_for: float = 10.0,
        answer_within: float = math.inf,
        connect_timeout: int = 5,
    ) -> None:
        self.dsn, self.schema = check_address(dsn), check_schema(schema)
        self.retry_for, self._answer_within, self._connect_timeout = retry_for, answer_within, connect_timeout
        self._connection: ImpatientConnection | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def run(
        self, name: str, params: Mapping[str, Any], *, retry_for: float | None = None, answer_within: float = math.inf
    ) -> list[dict[str, Any]]:
        """Run `sql/<name>.sql` and give the rows of its last statement. `answer_within` may only shorten that limit."""
        return self.run_text(statement(name, self.schema), params, retry_for=retry_for, answer_within=answer_within)

    def run_text(
        self,
        text: str,
        params: Mapping[str, Any] | None,
        *,
        retry_for: float | None = None,
        answer_within: float = math.inf,
    ) -> list[dict[str, Any]]:
        self._leave_to_the_parent()
        give_up_at = math.inf
        pause = 0.05
        while True:
            try:
                with self._lock, ErrorsMapped(self.dsn, self.schema):
                    return self._execute(text, params, min(answer_within, self._answer_within))
            except StoreUnavailable:
                self._drop_connection()
                now = time.monotonic()
                give_up_at = min(give_up_at, now + (self.retry_for if retry_for is None else retry_for))
                if now + pause > give_up_at:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            except ExclusiveError:
                raise
            except BaseException:  # told to stop in the middle of a statement: its answer is not that of the next one
                self._drop_connection()
                raise

    def close(self) -> None:
        self._leave_to_the_parent()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _execute(self, text: str, params: Mapping[str, Any] | None, answer_within: float) -> list[dict[str, Any]]:
        from psycopg import ClientCursor
        from psycopg.rows import dict_row

        # Parameters are filled in by the client: only then may one message carry several statements, and nothing is
        # prepared, which a pooler in transaction mode couldn't follow.
        connection = self._connected(answer_within)
        connection.answer_within = answer_within
        with ClientCursor(connection, row_factory=dict_row) as cursor:
            cursor.execute(text.encode(), params)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.rownumber is not None else []

    def _connected(self, answer_within: float) -> ImpatientConnection:
        from airflow_exclusive.stores.postgres.connection import connect

        if self._connection is None or self._connection.closed:
            self._connection = connect(self.dsn, connect_timeout=self._connect_timeout, answer_within=answer_within)
        return self._connection

    def _leave_to_the_parent(self) -> None:
        """In a fork: the connection is its parent's, and so is whatever is said on it."""
        if self._pid != (pid := os.getpid()):
            _of_parents.append(self._connection)  # to close it would end the parent's session
            self._connection, self._lock, self._pid = None, threading.Lock(), pid

    def _drop_connection(self) -> None:
        try:
            self.close()
        except Exception:
            self._connection = None


class ErrorsMapped:
    """Driver errors as ours. `StoreUnavailable`: worth another try, on another connection.

    may_ask: who it is that doesn't answer, which takes a moment.
    """

    def __init__(self, dsn: str, schema: str, *, may_ask: bool = True) -> None:
        self._dsn, self._schema, self._may_ask = dsn, schema, may_ask

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not (ours := _as_ours(error, redacted(self._dsn), self._schema)):
            return
        if self._may_ask and isinstance(ours, StoreUnavailable) and _NO_GREETING.search(str(error)):
            _check_who_answers(self._dsn)
        raise ours from error


def _check_who_answers(dsn: str) -> None:
    if (server := one_server(dsn)) and (name := who_answers(*server, PING)) not in ("", "PostgreSQL"):
        cure = f"{name} answers there, and not as PostgreSQL does: give the address of the status database"
        raise InvalidSetting("postgres", redacted(dsn), cure)


def _as_ours(error: BaseException, server: str, schema: str) -> ExclusiveError | None:
    import psycopg
    from psycopg import errors

    if not isinstance(error, psycopg.Error):
        return None
    why = _first_line(error)
    if isinstance(
        error, (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction, errors.InvalidSchemaName)
    ):
        return StoreMisconfigured(
            f"schema {schema!r} in {server} isn't ready: {why};"
            " run `airflow-exclusive init` with the owner's connection"
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return StoreMisconfigured(
            f"the role of {server} lacks a privilege in schema {schema!r}: {why};"
            " see docs/operations.md for those it needs"
        )
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)):
        if _NO_LOGIN.search(str(error)):
            return StoreMisconfigured(f"can't log in at {server}: {why}")
        return StoreUnavailable(f"Postgres at {server} doesn't answer: {why}")
    return ExclusiveError(f"Postgres at {server}: {why}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
