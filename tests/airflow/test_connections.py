"""Airflow connections as addresses: what the drivers read in them is what the connection said."""

from __future__ import annotations

import json
import re
from typing import Any

import psycopg
import pytest
import redis
from airflow.providers.common.compat.sdk import BaseHook, Connection

from airflow_exclusive.airflow.connections import open_guard, postgres_dsn, redis_url
from airflow_exclusive.core.errors import InvalidSetting
from deploy.embedded.postgres import PostgresServer

STRANGE = ["p@ss:w/rd", "50%25 off?", "a b&c=d#e", "'quoted' \"twice\"", "备份 ü\\n", "[x]{y}+z", "://@"]


def connection(kind: str, **fields: Any) -> Connection:
    extra = fields.pop("extra", None)
    return Connection(conn_id="mine", conn_type=kind, extra=extra and json.dumps(extra), **fields)


def as_redis_reads_it(address: str) -> dict[str, Any]:
    return dict(redis.connection.parse_url(address))


def as_libpq_reads_it(address: str) -> dict[str, Any]:
    return dict(psycopg.conninfo.conninfo_to_dict(address))


@pytest.mark.parametrize("secret", STRANGE)
def test_login_and_password_may_be_anything(secret: str) -> None:
    fields = {"host": "h", "login": f"me {secret}", "password": secret}
    gate = as_redis_reads_it(redis_url(connection("redis", **fields)))
    truth = as_libpq_reads_it(postgres_dsn(connection("postgres", schema=f"db {secret}", **fields)))
    assert (gate["username"], gate["password"], gate["host"]) == (f"me {secret}", secret, "h")
    assert (truth["user"], truth["password"], truth["host"]) == (f"me {secret}", secret, "h")
    assert truth["dbname"] == f"db {secret}"


def test_a_redis_password_needs_no_login() -> None:
    read = as_redis_reads_it(redis_url(connection("redis", host="h", password="secret")))
    assert read["password"] == "secret"
    assert not read.get("username")


def test_what_a_redis_connection_leaves_out_is_redis_default() -> None:
    assert redis_url(connection("redis")) == "redis://localhost:6379/0"


def test_the_number_of_the_redis_database_is_an_extra() -> None:
    read = as_redis_reads_it(redis_url(connection("redis", host="h", port=7000, extra={"db": 12})))
    assert (read["host"], read["port"], read["db"]) == ("h", 7000, 12)


@pytest.mark.parametrize("number", ["two", -1, 1.5, [1]])
def test_a_redis_database_that_is_no_number_is_refused(number: object) -> None:
    with pytest.raises(InvalidSetting, match=r"'mine': .*db"):
        redis_url(connection("redis", host="h", extra={"db": number}))


@pytest.mark.parametrize("path", ["/1", "/1?db=1", "/?db=1"])
def test_the_number_of_the_redis_database_ends_its_uri(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BY_URI", f"redis://:s3cr3t@h:7000{path}")
    assert redis_url(BaseHook.get_connection("by_uri")) == "redis://:s3cr3t@h:7000/1"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"schema": "jobs"}, "has schema='jobs'; that must be the number of a database"),
        ({"schema": "1", "extra": {"db": 2}}, "has extra db='2' but schema='1'; name one database"),
        ({"schema": "1", "extra": {"db": 0}}, "has extra db='0' but schema='1'; name one database"),
    ],
)
def test_a_redis_database_that_is_unclear_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSetting, match=f"redis_conn_id='mine': {says}"):
        redis_url(connection("redis", host="h", **fields))


def test_the_extras_of_redis_over_tls_are_kept() -> None:
    extra = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/my ca.pem", "ssl_check_hostname": False}
    read = as_redis_reads_it(redis_url(connection("redis", host="h", extra=extra)))
    assert read["connection_class"] is redis.SSLConnection
    assert {name: read[name] for name in extra if name != "ssl"} == {
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": "/etc/my ca.pem",
        "ssl_check_hostname": False,
    }


def test_a_connection_of_type_rediss_is_over_tls() -> None:
    assert redis_url(connection("rediss", host="h")).startswith("rediss://h:6379/")


def test_without_tls_its_extras_count_for_nothing() -> None:
    url = redis_url(connection("redis", host="h", extra={"ssl": False, "ssl_ca_certs": "/ca.pem"}))
    assert as_redis_reads_it(url).keys() == {"host", "port", "db"}


def test_a_cluster_has_its_own_host_and_those_of_the_extras_as_airflows_hook_has_it() -> None:
    assert redis_url(connection("redis", host="h", extra={"cluster": True})) == "redis+cluster://h:6379/0"
    extra = {"cluster": True, "startup_nodes": "a:7000, b", "ssl": True}
    url = redis_url(connection("redis", host="h", password="x", extra=extra))
    assert url == "rediss+cluster://:x@h:6379,a:7000,b/0"


def test_sentinels_are_named_with_their_master() -> None:
    extra = {"sentinels": "a:26380,b", "master_name": "the gate", "db": 2, "sentinel_password": "secret"}
    url = redis_url(connection("redis", login="me", password="p@ss", extra=extra))
    assert url == "redis+sentinel://me:p%40ss@a:26380,b/the%20gate/2?sentinel_password=secret"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"cluster": True, "startup_nodes": "a:x"}, "'a:x' is no address"),
        ({"cluster": True, "startup_nodes": ["a"]}, "write 'host:port,host:port'"),
        ({"cluster": True, "db": 1}, "no database but 0"),
        ({"sentinels": "a:26379"}, "no master_name"),
        ({"sentinels": ":26379", "master_name": "m"}, "at least one host"),
        ({"sentinels": ["a"], "master_name": "m"}, "write 'host:port,host:port'"),
    ],
)
def test_a_cluster_or_sentinels_in_a_wrong_form_are_refused(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=f"redis_conn_id='mine': .*{message}"):
        redis_url(connection("redis", host="h", extra=extra))


def test_an_address_of_version_6_keeps_its_port() -> None:
    gate = as_redis_reads_it(redis_url(connection("redis", host="::1", port=7000)))
    truth = as_libpq_reads_it(postgres_dsn(connection("postgres", host="::1", port=7000)))
    assert (gate["host"], gate["port"]) == ("::1", 7000)
    assert (truth["host"], truth["port"]) == ("::1", "7000")


def test_postgres_extras_that_libpq_knows_are_kept_and_others_left_out() -> None:
    extra = {"sslmode": "verify-full", "sslrootcert": "/etc/my ca.pem", "options": "-c search_path=a,b", "cursor": "x"}
    read = as_libpq_reads_it(postgres_dsn(connection("postgres", host="h", port=6432, schema="db", extra=extra)))
    assert read == {
        "host": "h",
        "port": "6432",
        "dbname": "db",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/my ca.pem",
        "options": "-c search_path=a,b",
    }


@pytest.mark.parametrize("host", ["[::1]z", "me@h"])
def test_a_host_of_postgres_that_cannot_be_is_told_without_the_password(host: str) -> None:
    connection = Connection(conn_id="db", conn_type="postgres", host=host, login="me", password="S3cr/t@", port=1)
    with pytest.raises(InvalidSetting, match=r"^postgres_conn_id='db': can't be used: postgres=") as raised:
        postgres_dsn(connection)
    assert "S3cr" not in str(raised.value)


def test_the_host_of_postgres_may_be_the_folder_of_its_socket() -> None:
    fields = {"host": "/var/run/postgresql", "port": 5433, "schema": "db", "login": "me"}
    assert as_libpq_reads_it(postgres_dsn(connection("postgres", **fields))) == {
        "host": "/var/run/postgresql",
        "port": "5433",
        "dbname": "db",
        "user": "me",
    }


@pytest.mark.parametrize(
    ("hosts", "port", "read"),
    [
        ("h1,h2", 6432, ("h1,h2", "6432,6432")),
        ("h1:5433, h2", 6432, ("h1,h2", "5433,6432")),
        ("h:5433", 6432, ("h", "5433")),
        ("::1,fe80::2%eth0,[::3],[::4]:5433", 6432, ("::1,fe80::2%eth0,::3,::4", "6432,6432,6432,5433")),
        ("h1,/run/a:b", 6432, ("h1,/run/a:b", "6432,6432")),
        ("h1,h2", None, ("h1,h2", ",")),  # the default port of each
    ],
)
def test_the_port_is_that_of_each_host(hosts: str, port: int | None, read: tuple[str, str]) -> None:
    truth = as_libpq_reads_it(postgres_dsn(connection("postgres", host=hosts, port=port, schema="db", login="me")))
    assert (truth["host"], truth.get("port")) == read
    assert (truth["dbname"], truth["user"]) == ("db", "me")


PROTECTING = {
    "require_auth": "scram-sha-256",
    "sslcertmode": "require",
    "ssl_min_protocol_version": "TLSv1.3",
    "sslcrldir": "/etc/crl",
    "tcp_user_timeout": "1000",
    "keepalives_idle": "7",
    "load_balance_hosts": "random",
    "krbsrvname": "pg",
}


def test_whatever_libpq_can_be_told_is_kept() -> None:
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    extra = {name: value for name, value in PROTECTING.items() if name in known}
    read = as_libpq_reads_it(postgres_dsn(connection("postgres", host="h", extra={**extra, "client_encoding": "x"})))
    assert extra
    assert read == {"host": "h", **extra}


def test_what_postgres_extras_require_is_required(postgres_server: PostgresServer) -> None:
    extra = {**as_libpq_reads_it(postgres_server.dsn()), "require_auth": "gss"}
    with pytest.raises(psycopg.OperationalError, match="gss"):
        psycopg.connect(postgres_dsn(connection("postgres", extra=extra)))


@pytest.mark.parametrize("name", ["host", "hostaddr"])
def test_extras_say_where_postgres_is_as_airflows_hook_has_it(name: str) -> None:
    read = as_libpq_reads_it(postgres_dsn(connection("postgres", port=5433, extra={name: "10.0.0.1", "user": "me"})))
    assert read == {name: "10.0.0.1", "port": "5433", "user": "me"}


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"a_redis": "redis", "tls_redis": "rediss", "a_postgres": "postgres", "pg_by_url": "postgresql"}
    for name, kind in {**kinds, "a_mysql": "mysql"}.items():
        fields = {"conn_type": kind, "host": "h", "password": "s3cr3t"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(fields))


@pytest.mark.parametrize(("gate", "truth"), [("a_redis", "a_postgres"), ("tls_redis", "pg_by_url")])
def test_connections_of_the_right_types_make_a_guard(connections: None, gate: str, truth: str) -> None:
    open_guard(gate, truth).close()


@pytest.mark.parametrize(
    ("gate", "truth", "says"),
    [
        ("a_postgres", "a_redis", "redis_conn_id='a_postgres': is a connection of type 'postgres'; it must be 'redis'"),
        ("a_redis", "a_redis", "postgres_conn_id='a_redis': is a connection of type 'redis'; it must be 'postgres'"),
        ("a_redis", "tls_redis", "postgres_conn_id='tls_redis': is a connection of type 'rediss'"),
        ("a_redis", "a_mysql", "postgres_conn_id='a_mysql': is a connection of type 'mysql'"),
        ("nothing", "a_postgres", "redis_conn_id='nothing': there is no such connection; create it, e.g. airflow con"),
        ("a_redis", "nothing", "airflow connections add nothing --conn-type postgres"),
        (None, "a_postgres", "redis_conn_id='exclusive_redis': there is no such connection"),
        ("a_redis", None, "postgres_conn_id='exclusive_postgres': there is no such connection"),
    ],
)
def test_a_connection_that_cannot_serve_is_named_with_its_cure(
    connections: None, gate: str | None, truth: str | None, says: str
) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(says)) as refused:
        open_guard(gate, truth)
    assert "s3cr3t" not in str(refused.value)


def test_the_configuration_names_the_connections_where_a_task_does_not(
    connections: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__EXCLUSIVE__REDIS_CONN_ID", "a_redis")
    monkeypatch.setenv("AIRFLOW__EXCLUSIVE__POSTGRES_CONN_ID", "a_mysql")
    with pytest.raises(InvalidSetting, match="postgres_conn_id='a_mysql'"):
        open_guard(None, None)
