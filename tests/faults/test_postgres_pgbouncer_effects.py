"""The contract of effects through PgBouncer in transaction mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from airflow_exclusive.stores.postgres.effects import transaction
from deploy.embedded.postgres import PostgresServer
from tests.contract import test_effects as effects
from tests.contract.test_effects import *  # noqa: F403
from tests.contract.test_effects import ADD, Attempt
from tests.support.servers import PgBouncer


@pytest.fixture(scope="module")
def effects_database(postgres_server: PostgresServer, pgbouncer: PgBouncer) -> Iterator[str]:
    """The contract's own database, behind the pooler."""
    with effects.made_database(postgres_server) as dsn:
        yield pgbouncer.dsn(dsn.rpartition("/")[2])


@pytest.mark.parametrize("autocommit", [False, True])
def test_steps_may_be_many_and_each_on_another_connection_of_the_pool(
    effects_database: str, total: Callable[[], int], autocommit: bool
) -> None:
    """What the driver prepares on one of them, as it does with a statement that comes often, the next one lacks."""
    with psycopg.connect(effects_database, autocommit=autocommit) as conn, psycopg.connect(effects_database) as other:
        for number in range(10):
            with transaction(Attempt(), conn, f"step {number}") as tx:
                tx.execute(ADD, {"n": 1})
            if number % 2:
                other.rollback()
            else:  # takes the connection that has just become free, and keeps it
                other.execute("SELECT", prepare=False)
    assert total() == 10
