"""The disk of the status database is full while guarded tasks run, begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_exclusive import JobGuard
from airflow_exclusive.stores.postgres.schema import upgrade
from deploy.embedded.stack import Stack
from tests.acceptance.conftest import Meetings
from tests.support.full_disk import SmallDisk

CONNECTION = "small_disk"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path)
    try:
        yield disk.start()
    finally:
        disk.remove()


@pytest.fixture
def dsn(airflow_stack: Stack, small_disk: SmallDisk) -> Iterator[str]:
    """A status database on that disk, which Airflow knows."""
    dsn = small_disk.server.create_database("exclusive")
    upgrade(dsn)
    api = airflow_stack.airflow.api
    api.post(
        "/connections",
        {
            "connection_id": CONNECTION,
            "conn_type": "postgres",
            "host": "127.0.0.1",
            "port": small_disk.server.port,
            "login": "postgres",
            "schema": "exclusive",
        },
    )
    yield dsn
    api.call("DELETE", f"/connections/{CONNECTION}")


def test_a_full_disk_admits_nobody_and_repeats_nothing(
    meetings: Meetings, airflow_stack: Stack, small_disk: SmallDisk, dsn: str
) -> None:
    with JobGuard(redis=airflow_stack.redis_url, postgres=dsn) as guard:
        running = replace(meetings.run("guarded_on_small_disk"), guard=guard)
        running.note()
        small_disk.fill(dsn)

        asking = replace(meetings.run("guarded_on_small_disk"), guard=guard)
        asking.first_try_fails()
        assert len(running.started()) == 1, "nobody new is admitted"
        assert "could not extend file" in asking.log(1), "and it is told why"
        running.go()
        running.first_try_fails()
        assert running.effects() == [1], "only its end could not be written down"

        asking.go()
        small_disk.free()
        running.wait_for("success")
        asking.wait_for("success")

        assert running.tries() == ["failed", "success"]
        assert set(asking.tries()[:-1]) == {"failed"}
        assert running.ended() == "success"
        running.assert_in_order("taken_over", "success")
        asking.assert_done_once()
