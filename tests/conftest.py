"""Servers and databases for the tests; each is started when the first test asks for it."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

# Airflow reads its settings when it is first imported: never those of whoever runs the tests.
for _name in [name for name in os.environ if name.startswith(("AIRFLOW_", "EXCLUSIVE_")) and "_TEST_" not in name]:
    del os.environ[_name]
_AIRFLOW_HOME = tempfile.mkdtemp(prefix="airflow-exclusive-tests-")
os.environ["AIRFLOW_HOME"] = _AIRFLOW_HOME
os.environ["AIRFLOW__CORE__EXECUTOR"] = "LocalExecutor"  # Airflow 2's default, another one, changes ours
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] = "False"

from deploy.embedded.postgres import EmbeddedPostgres, ExternalPostgres, PostgresServer  # noqa: E402
from deploy.embedded.release import PROJECT  # noqa: E402
from deploy.embedded.stack import Profile, Stack  # noqa: E402
from deploy.embedded.valkey import EmbeddedValkey, ExternalRedis, RedisServer  # noqa: E402
from tests.support.airflow_line import AIRFLOW  # noqa: E402
from tests.support.databases import PassingDatabases  # noqa: E402

_AROUND_AIRFLOW = ("tests/acceptance/", "tests/deploy/test_embedded.py")
_AROUND_ANOTHER = ("tests/acceptance/test_waiting.py", "tests/acceptance/test_cut_off_worker.py")
"""Half of them."""
_stacks: list[Stack] = []
"""The one that runs, if it does."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where processes share the tests, two of them get those around an Airflow, and each starts one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByServers(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            if file.startswith(_AROUND_ANOTHER):
                return "another Airflow"
            return "Airflow" if file.startswith(_AROUND_AIRFLOW) else file

    config.option.loadscopereorder = False  # the share with the most tests isn't the one that takes longest
    return ByServers(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The shares that take longest are begun first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(_AROUND_AIRFLOW))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """An Airflow that no test needs any more would take half a processor from the others."""
    begun_first = hasattr(item.config, "workerinput") and item.nodeid.startswith(_AROUND_AIRFLOW)
    if begun_first and nextitem is not None and not nextitem.nodeid.startswith(_AROUND_AIRFLOW):
        while _stacks:
            _stacks.pop().remove()


def pytest_unconfigure() -> None:
    shutil.rmtree(_AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded servers of this run keep their data and logs."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[PostgresServer]:
    """PostgreSQL: the embedded one, or that of EXCLUSIVE_TEST_POSTGRES_DSN."""
    given = os.environ.get("EXCLUSIVE_TEST_POSTGRES_DSN")
    if given:
        yield ExternalPostgres(given)
        return
    server = EmbeddedPostgres(server_folder / "postgres", durable=False)
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def redis_server(server_folder: Path) -> Iterator[RedisServer]:
    """A Redis-compatible server: the embedded one, or that of EXCLUSIVE_TEST_REDIS_URL."""
    given = os.environ.get("EXCLUSIVE_TEST_REDIS_URL")
    if given:
        yield ExternalRedis(given)
        return
    server = EmbeddedValkey(server_folder / "valkey", durable=False)
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def passing_databases() -> Iterator[PassingDatabases]:
    made = PassingDatabases()
    yield made
    made.close()


@pytest.fixture
def empty_database(postgres_server: PostgresServer, passing_databases: PassingDatabases) -> Iterator[str]:
    """DSN of a database with nothing in it, this test's own."""
    with passing_databases.made(postgres_server) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def _template(postgres_server: PostgresServer) -> Iterator[str]:
    """Name of a database with the tables, to copy: quicker than installing them for each test."""
    from airflow_exclusive.stores.postgres import schema

    name = f"exclusive_template_{uuid.uuid4().hex[:12]}"
    schema.upgrade(postgres_server.create_database(name))
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def database(postgres_server: PostgresServer, passing_databases: PassingDatabases, _template: str) -> Iterator[str]:
    """DSN of a database with the tables installed and empty, this test's own."""
    with passing_databases.made(postgres_server, _template) as dsn:
        yield dsn


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A connection to `database`, each statement its own transaction."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


_next_database = count()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """Address of an empty Redis database, this test's own; number 0 is nobody's."""
    url = redis_server.url(1 + next(_next_database) % (redis_server.databases - 1))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of `redis_url` that answers in text."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def airflow_stack(server_folder: Path) -> Iterator[Stack]:
    """Airflow with the project's DAGs and those of the acceptance tests, paused, and plugin; servers of its own.

    The release is the one of this Python. Both have the LocalExecutor: the SequentialExecutor stops the scheduler while
    a task runs, so that no second attempt begins which the first one could meet.
    """
    dags = server_folder / "dags"
    dags.mkdir()
    (dags / "samples").symlink_to(PROJECT / "dags")
    (dags / "cases").symlink_to(PROJECT / "tests" / "acceptance" / "dags")
    profile = Profile("tested", AIRFLOW.tested, "LocalExecutor")
    stack = Stack(
        server_folder / "stack",
        profile,
        dags_folder=dags,
        durable=False,
        paused_at_creation=True,
        env=AIRFLOW.impatient,
    )
    _stacks.append(stack)
    try:
        yield stack.start()
    finally:
        while _stacks:
            _stacks.pop().remove()
