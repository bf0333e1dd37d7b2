"""The contract of the gate on the Redis of the distribution; the embedded Valkey is in tests/contract."""

from __future__ import annotations

import pytest
import redis

from tests.contract.test_redis_locks import *  # noqa: F403
from tests.support.servers import SystemRedis


@pytest.fixture(scope="session")
def redis_server(system_redis: SystemRedis) -> SystemRedis:
    return system_redis


def test_it_is_redis_and_no_valkey(redis_client: redis.Redis) -> None:
    info = redis_client.info("server")
    assert "valkey_version" not in info
    assert int(info["redis_version"].split(".")[0]) >= 7
