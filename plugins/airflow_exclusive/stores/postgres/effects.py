"""Exactly-once effects: the user's writes, their mark and the token commit together or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import iscoroutinefunction
from threading import get_ident
from typing import Any, Protocol

from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, StaleWrite, StoreMisconfigured
from airflow_exclusive.core.lease import Identity
from airflow_exclusive.core.names import check_run_key
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, statement


class _Connection(Protocol):
    """What the three kinds of connections have in common."""

    def execute(self, text: str, params: Mapping[str, Any] | None = None) -> Any: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


class _DbApi:
    """A psycopg 3 or psycopg2 connection, out of autocommit mode for the step."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        # psycopg 3 prepares what comes often, which a pooler in transaction mode can't follow.
        self._options = {"prepare": False} if hasattr(conn, "prepare_threshold") else {}
        self._autocommit = bool(conn.autocommit)
        if self._autocommit:
            if conn.info.transaction_status:
                raise InvalidSetting("conn", conn, "is within a transaction block already: leave that one first")
            # After a BEGIN of ours the block could roll back, and what it writes then would be committed by itself.
            conn.autocommit = False

    def execute(self, text: str, params: Mapping[str, Any] | None = None) -> Any:
        cursor = self._conn.cursor()
        cursor.execute(text, params, **self._options)
        return cursor

    def commit(self) -> None:
        self._conn.commit()
        self._restore()

    def rollback(self) -> None:
        try:
            self._conn.rollback()
        finally:
            self._restore()

    def _restore(self) -> None:
        if self._autocommit:
            self._conn.autocommit = True


class _SqlAlchemy:
    """A SQLAlchemy connection or session."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._begun = executor = self._executor
        if executor.connection.dbapi_connection.autocommit:
            # A rollback in the block takes a session to another connection, and its commit flushes first: what is
            # written there is committed by itself, and SQLAlchemy offers no other mode to a session in use.
            raise InvalidSetting(
                "conn",
                conn,
                "is in autocommit mode: give one of engine.execution_options(isolation_level='READ COMMITTED')",
            )
        if not executor.in_transaction():
            executor.begin()  # SQLAlchemy 1.4 would commit each statement by itself

    def execute(self, text: str, params: Mapping[str, Any] | None = None) -> Any:
        executor = self._executor
        if not executor.in_transaction():  # SQLAlchemy 1.4 would commit this by itself
            raise ExclusiveError(f"its transaction {_ENDED_INSIDE}")
        # A connection may be set to stream its results: only a SELECT could be, and then without a number of rows.
        return executor.exec_driver_sql(text, dict(params) if params else None, {"stream_results": False})

    @property
    def _executor(self) -> Any:
        """A session has another one after a commit or rollback of its own."""
        return self._conn.connection() if hasattr(self._conn, "get_bind") else self._conn

    def commit(self) -> None:
        self._finish("commit")
        if self._begun.in_transaction():  # a session that is nested in another one has ended only its own
            raise InvalidSetting(
                "conn", self._conn, "has left the commit to the transaction around it: give one that isn't nested"
            )

    def rollback(self) -> None:
        self._finish("rollback")

    def _finish(self, how: str) -> None:
        # SQLAlchemy 1.4 connections have no commit() of their own, only their transaction has.
        target = self._conn if hasattr(self._conn, how) else self._conn.get_transaction()
        getattr(target, how)()


_ENDED_INSIDE = (
    "failed or ended in the block: let an error in the block end the block, and neither commit nor roll back inside"
)


class EffectTransaction:
    """One step of a job, inside its transaction.

    done: the step was committed by an earlier attempt; what is written now will be rolled back.
    """

    def __init__(self, connection: _Connection, done: bool) -> None:
        self._connection = connection
        self.done = done

    def execute(self, text: str, params: Mapping[str, Any] | None = None) -> Any:
        """Run a statement in the transaction and give the driver's cursor or result. Parameters as `%(name)s`."""
        return self._connection.execute(text, params)


@contextmanager
def transaction(lease: Identity, conn: Any, step: str, *, schema: str = DEFAULT_SCHEMA) -> Iterator[EffectTransaction]:
    """See `Lease.transaction`. Whatever was already written in the connection's open transaction belongs to it too."""
    identity = {
        "job_name": lease.job_name,
        "run_key": lease.run_key,
        "generation": lease.generation,
        "step": _checked_step(step),
        "fencing_token": lease.token,
    }
    with _only_step(lease.job_name, step):
        connection = _adapted(conn)
        try:
            # A machine that vanishes must not keep the fence, and the rows it wrote, locked for hours.
            if not _affected(connection, "begin", schema, identity):
                raise InvalidSetting(
                    "conn", conn, "is within a step already, which this one would commit: end that one first"
                )
            if not _affected(connection, "fence", schema, identity):
                raise StaleWrite(
                    f"{lease.job_name} {lease.run_key} step {step!r}: a later attempt has written here,"
                    f" token {lease.token} is refused"
                )
            effect = EffectTransaction(connection, done=not _affected(connection, "mark", schema, identity))
            yield effect
            if effect.done:
                connection.rollback()
            else:
                _ensure_intact(connection, schema, identity)
                lease.ensure_held()
                connection.commit()
        except BaseException:
            with suppress(Exception):
                connection.rollback()
            raise


_open_steps: dict[tuple[int, str], str] = {}
"""By thread and job."""


@contextmanager
def _only_step(job_name: str, step: str) -> Iterator[None]:
    """A thread that is in a step of the job would wait for itself at the fence, on another connection for ever."""
    key = get_ident(), job_name
    if outer := _open_steps.get(key):
        raise InvalidSetting("step", step, f"can't begin within step {outer!r} of {job_name}: end that one first")
    _open_steps[key] = step
    try:
        yield
    finally:
        del _open_steps[key]


def _checked_step(step: str) -> str:
    try:
        return check_run_key(step)
    except InvalidSetting as error:
        raise InvalidSetting("step", step, error.cure) from None


def _ensure_intact(connection: _Connection, schema: str, identity: Mapping[str, Any]) -> None:
    """A COMMIT doesn't fail where the transaction is aborted, or another one than that with fence and mark."""
    cause = None
    try:
        if _affected(connection, "intact", schema, identity):
            return
    except Exception as error:
        if _sqlstate(error) != "25P02":
            raise
        cause = error
    raise ExclusiveError(
        f"{identity['job_name']} {identity['run_key']} step {identity['step']!r}: its transaction {_ENDED_INSIDE}"
    ) from cause


def _affected(connection: _Connection, name: str, schema: str, identity: Mapping[str, Any]) -> bool:
    try:
        rows = connection.execute(statement(name, schema), identity).rowcount
    except Exception as error:
        if _sqlstate(error) in ("42P01", "3F000"):
            raise StoreMisconfigured(
                f"the database of lease.transaction() has no effect tables in schema {schema!r};"
                " run `airflow-exclusive init --effects --postgres …` for it"
            ) from error
        raise
    if rows not in (0, 1):
        raise InvalidSetting("conn", type(connection), f"must tell how many rows {name}.sql has written, not {rows}")
    return bool(rows)


def _sqlstate(error: BaseException) -> str | None:
    driver_error = getattr(error, "orig", None) or error
    return getattr(driver_error, "sqlstate", None) or getattr(driver_error, "pgcode", None)


def _adapted(conn: Any) -> _Connection:
    if iscoroutinefunction(getattr(conn, "commit", None)):
        raise InvalidSetting(
            "conn", type(conn), "is asynchronous: the block needs one whose calls return when they are done"
        )
    if hasattr(conn, "exec_driver_sql") or hasattr(conn, "get_bind"):
        return _SqlAlchemy(conn)
    if hasattr(conn, "cursor") and hasattr(conn, "autocommit"):
        return _DbApi(conn)
    raise InvalidSetting("conn", conn, "must be a psycopg, psycopg2 or SQLAlchemy connection (or SQLAlchemy session)")
