"""The contract of effects on the PostgreSQL of the distribution."""

from __future__ import annotations

import pytest

from tests.contract.test_effects import *  # noqa: F403
from tests.support.servers import SystemPostgres


@pytest.fixture(scope="session")
def postgres_server(system_postgres: SystemPostgres) -> SystemPostgres:
    return system_postgres


@pytest.fixture(scope="session")
def _template(system_template: str) -> str:
    return system_template
