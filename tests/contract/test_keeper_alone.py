"""The keeper's process without the process: its loop, its end and how it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_exclusive.keeper import handle, process
from airflow_exclusive.keeper.order import Order
from airflow_exclusive.keeper.page import Entry, Page
from airflow_exclusive.keeper.process import KeeperProcess
from airflow_exclusive.keeper.started import KEEP
from airflow_exclusive.node import clock
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import proxied
from tests.support.proxy import HANGING, sql
from tests.support.waiting import eventually

_ASKS = "asks"
"""Threads that run a statement."""


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page.create(Entry(confirmed=clock()))
    yield made
    made.close()


@pytest.fixture
def told_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    read, write = os.pipe()
    with os.fdopen(read) as orders:
        monkeypatch.setattr(sys, "stdin", orders)
        yield
        os.close(write)
    monkeypatch.undo()


class Watched(SimpleNamespace):
    """A job that doesn't end."""

    pid, descriptor, dead, stopped, terminated = 1, None, False, False, False

    def terminate(self) -> None:
        self.terminated = True

    def kill(self, *, within: float) -> bool:
        return self.dies


class Asking(Database):
    def run(self, *args: Any, **options: Any) -> list[dict[str, Any]]:
        threading.current_thread().name = _ASKS
        return super().run(*args, **options)


def order(postgres: str, **more: Any) -> Order:
    known = {"redis": "redis://127.0.0.1:1", "postgres": postgres, "schema": DEFAULT_SCHEMA, "job_name": JOB}
    known |= {"run_key": TICK, "owner": "owner", "fencing_token": 1, "job_pid": 1, "on_lease_lost": "stop"}
    return Order(**{**known, "must_end_at": None, **more})


@pytest.mark.usefixtures("told_nothing")
def test_a_question_about_a_fixed_lease_that_nobody_answers_is_soon_asked_again(
    redis_url: str, database: str, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release is heard of within seconds, however long the lease."""
    monkeypatch.setattr(process, "_ASK_EVERY_AT_MOST", 0.2)
    databases: list[Database] = []

    def connect(*args: Any, **options: Any) -> Database:
        databases.append(Asking(*args, **options))
        return databases[-1]

    monkeypatch.setattr(process, "Database", connect)
    job: Any = Watched(dies=False)
    with proxied(redis_url, database) as node:
        unanswered = node.postgres.arm(sql("held"), HANGING)
        keeper = KeeperProcess(order(node.node.postgres, ttl=6 * 3600.0, renew=False), page, job)
        loop = threading.Thread(target=keeper.run)
        loop.start()
        try:
            assert eventually(unanswered.hit.is_set)
            assert eventually(lambda: job.terminated)
        finally:
            job.dead = True
            loop.join()
        assert eventually(lambda: not any(thread.name == _ASKS for thread in threading.enumerate()))
    for made in databases:
        made.close()


@pytest.mark.parametrize("safe", ["", "1"])
def test_a_keeper_looks_where_its_job_does_but_not_in_the_working_folder(tmp_path: Path, safe: str) -> None:
    boot = handle._BOOT.replace(KEEP, "import json; print(json.dumps(sys.path))")
    told = subprocess.run(
        [sys.executable, "-c", boot, "/package"],
        env={**os.environ, "PYTHONPATH": "/first:/second", "PYTHONSAFEPATH": safe},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    path = json.loads(told)
    assert [path[0], path[1], path[-1]] == ["/first", "/second", "/package"]
    assert not {"", str(tmp_path)} & set(path)
