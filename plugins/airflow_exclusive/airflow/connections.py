"""Airflow connections as plain addresses, which a keeper process can use without Airflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from airflow_exclusive.airflow import config
from airflow_exclusive.airflow.compat import AirflowNotFoundException, BaseHook, Connection
from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.stores.postgres.address import check_address
from airflow_exclusive.stores.redis.address import Address

Extra = Mapping[str, Any]

_TYPES = {"redis": ("redis", "rediss"), "postgres": ("postgres", "postgresql")}
_REDIS_SSL = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")


def open_guard(redis_conn_id: str | None, postgres_conn_id: str | None) -> JobGuard:
    """A guard on the two connections; the defaults come from `[exclusive]`. Raises `InvalidSetting`."""
    return JobGuard(
        redis=redis_url(_connection("redis", redis_conn_id or config.redis_conn_id())),
        postgres=postgres_dsn(_connection("postgres", postgres_conn_id or config.postgres_conn_id())),
        schema=config.schema(),
    )


def status_dsn() -> str:
    """The address of the status database, by the default connection. Raises `InvalidSetting`."""
    return postgres_dsn(_connection("postgres", config.postgres_conn_id()))


async def async_redis_url(conn_id: str) -> str:
    """The gate's address, asked for in an event loop. Raises `InvalidSetting`."""
    connection, extra = await _async_connection("redis", conn_id)
    return redis_url(connection, extra)


async def async_postgres_dsn(conn_id: str) -> str:
    """The address of the status database, asked for in an event loop. Raises `InvalidSetting`."""
    connection, extra = await _async_connection("postgres", conn_id)
    return postgres_dsn(connection, extra)


def redis_url(connection: Connection, extra: Extra | None = None) -> str:
    """The URL of a connection of type redis, with the extras that Airflow's Redis hook knows.

    >>> redis_url(Connection(conn_type="redis", host="h", extra='{"db": 2}'))   # doctest: +SKIP
    'redis://h:6379/2'

    The database's number may as well be the connection's schema, which is what ends one that is written as a URI.
    `{"cluster": true, "startup_nodes": "host:port,…"}`: a cluster, as that hook has it; the connection's own host is
    one of its nodes. `{"sentinels": "host:port,…", "master_name": "…"}`: what those Sentinels say is the master; the
    connection's login is for Redis, `sentinel_username` and `sentinel_password` for them.
    """
    extra = connection.extra_dejson if extra is None else extra
    kind = "+cluster" if _true(extra.get("cluster")) else "+sentinel" if extra.get("sentinels") else ""
    scheme = "rediss" if connection.conn_type == "rediss" or _true(extra.get("ssl")) else "redis"
    database = _database(connection, extra)
    options = {key: extra[key] for key in _REDIS_SSL if scheme == "rediss" and extra.get(key) is not None}
    if kind == "+sentinel":
        options |= {key: extra[key] for key in _SENTINEL_LOGIN if extra.get(key)}
    query = f"?{urlencode(options)}" if options else ""
    url = f"{scheme}{kind}://{_login(connection)}{_gate(connection, extra, kind)}/{database}{query}"
    try:
        Address.parse(url)
    except InvalidSetting as error:
        raise InvalidSetting("redis_conn_id", connection.conn_id, f"can't be used: {error}") from None
    return url


def _database(connection: Connection, extra: Extra) -> int:
    """Its number: in the extras, where Airflow's hook has it, or the schema, which is what ends a URI."""
    given = {"extra db": extra.get("db"), "schema": connection.schema}
    named = {field: str(value) for field, value in given.items() if value not in (None, "")}
    for field, text in named.items():
        if not text.isdecimal():
            cure = f"has {field}={text!r}; that must be the number of a database"
            raise InvalidSetting("redis_conn_id", connection.conn_id, cure)
    numbers = {int(text) for text in named.values()}
    if len(numbers) > 1:
        cure = "has " + " but ".join(f"{field}={text!r}" for field, text in named.items()) + "; name one database"
        raise InvalidSetting("redis_conn_id", connection.conn_id, cure)
    return numbers.pop() if numbers else 0


def _gate(connection: Connection, extra: Extra, kind: str) -> str:
    """Hosts and ports, and for Sentinel the master's name."""
    own = f"{_host(connection)}:{connection.port or 6379}"
    if not kind:
        return own
    field = "startup_nodes" if kind == "+cluster" else "sentinels"
    named = extra.get(field) or ""
    if not isinstance(named, str):
        raise InvalidSetting(
            "redis_conn_id", connection.conn_id, f"has {field}={named!r} in its extras; write 'host:port,host:port'"
        )
    hosts = ",".join(part.strip() for part in named.split(",") if part.strip())
    if kind == "+cluster":
        return ",".join(part for part in (own if connection.host else "", hosts) if part) or own
    if not extra.get("master_name"):
        raise InvalidSetting(
            "redis_conn_id", connection.conn_id, "has sentinels but no master_name in its extras; add it"
        )
    return f"{hosts}/{quote(str(extra['master_name']), safe='')}"


def postgres_dsn(connection: Connection, extra: Extra | None = None) -> str:
    """The URL of a connection of type postgres, with those of its extras that libpq knows.

    >>> postgres_dsn(Connection(conn_type="postgres", host="h1,h2", port=6432, schema="db"))   # doctest: +SKIP
    'postgresql://h1:6432,h2:6432/db'

    As with Airflow's Postgres hook, an extra outweighs the connection's field of that name. Raises `InvalidSetting`.
    """
    extra = connection.extra_dejson if extra is None else extra
    options = {name: extra[name] for name in _libpq_options() if extra.get(name) is not None}
    default = "" if options.keys() & {"host", "hostaddr"} else "localhost"
    hosts = (connection.host or default).split(",")
    address = ",".join(_with_port(host.strip(), connection.port) for host in hosts)
    query = f"?{urlencode(options, quote_via=quote)}" if options else ""
    dsn = f"postgresql://{_login(connection)}{address}/{quote(connection.schema or '', safe='')}{query}"
    try:
        return check_address(dsn)
    except InvalidSetting as error:
        raise InvalidSetting("postgres_conn_id", connection.conn_id, f"can't be used: {error}") from None


@cache
def _libpq_options() -> tuple[str, ...]:
    """What this libpq can be told: a list of our own would leave out, and nobody would notice, what protects."""
    from psycopg.pq import Conninfo

    names = (option.keyword.decode() for option in Conninfo.get_defaults())
    return tuple(name for name in names if name != "client_encoding")  # names are in every script


def _with_port(host: str, port: int | None) -> str:
    """One of the hosts for libpq, which in a URL wants the port behind each. It may have one, and be a socket's folder.

    >>> _with_port("h1", 6432), _with_port("h2:5433", 6432), _with_port("::1", 6432), _with_port("/run/pg", None)
    ('h1:6432', 'h2:5433', '[::1]:6432', '%2Frun%2Fpg')
    """
    if not host.startswith(("/", "[")) and host.count(":") > 1:  # IPv6
        host = f"[{host}]"
    host = quote(host, safe="" if host.startswith("/") else ":[]@")
    has_port = ":" in host.rpartition("]")[2]
    return host if has_port or not port else f"{host}:{port}"


def _connection(kind: str, conn_id: str) -> Connection:
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise _missing(kind, conn_id) from error
    return _checked(kind, connection)


async def _async_connection(kind: str, conn_id: str) -> tuple[Connection, Extra]:
    from airflow_exclusive.airflow.compat_triggers import get_async_connection

    try:
        connection = await get_async_connection(conn_id)
    except AirflowNotFoundException as error:
        raise _missing(kind, conn_id) from error
    return _checked(kind, connection), _plain_extra(connection)


def _plain_extra(connection: Connection) -> Extra:
    """As `extra_dejson` has it, which asks Airflow to mask secrets besides: a trigger's loop mustn't wait for that."""
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        return {}
    return extra if isinstance(extra, dict) else {}


def _missing(kind: str, conn_id: str) -> InvalidSetting:
    cure = f"there is no such connection; create it, e.g. airflow connections add {conn_id} --conn-type {kind} …"
    return InvalidSetting(f"{kind}_conn_id", conn_id, cure)


def _checked(kind: str, connection: Connection) -> Connection:
    if connection.conn_type not in _TYPES[kind]:
        cure = f"is a connection of type {connection.conn_type!r}; it must be {kind!r}"
        raise InvalidSetting(f"{kind}_conn_id", connection.conn_id, cure)
    return connection


def _host(connection: Connection) -> str:
    host = connection.host or "localhost"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host  # IPv6


def _login(connection: Connection) -> str:
    login, password = connection.login or "", connection.password or ""
    if not login and not password:
        return ""
    secret = f":{quote(password, safe='')}" if password else ""
    return f"{quote(login, safe='')}{secret}@"


def _true(value: Any) -> bool:
    return str(value).lower() in ("1", "true", "yes", "on")
