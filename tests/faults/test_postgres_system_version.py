"""The contract of the status store on the PostgreSQL of the distribution; the embedded one is in tests/contract."""

from __future__ import annotations

import psycopg
import pytest

from tests.contract.test_postgres_database import *  # noqa: F403
from tests.contract.test_postgres_statuses import *  # noqa: F403
from tests.support.servers import SystemPostgres


@pytest.fixture(scope="session")
def postgres_server(system_postgres: SystemPostgres) -> SystemPostgres:
    return system_postgres


@pytest.fixture(scope="session")
def _template(system_template: str) -> str:
    return system_template


def test_it_is_another_version(system_postgres: SystemPostgres, database: str) -> None:
    with psycopg.connect(database) as conn:
        assert 130000 <= conn.info.server_version < 180000
