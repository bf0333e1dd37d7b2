"""Airflow with two Celery workers, impatient in every respect, and the cases of the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from airflow_exclusive import JobGuard
from deploy.embedded import CELERY, Stack
from deploy.embedded.release import PROJECT
from tests.acceptance.conftest import Meetings
from tests.support.airflow_line import AIRFLOW

VISIBILITY_TIMEOUT = 3
_TRANSPORT = "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__"


@pytest.fixture(scope="session")
def celery_stack(server_folder: Path) -> Iterator[Stack]:
    stack = Stack(
        server_folder / "celery",
        replace(CELERY, workers=2),
        dags_folder=PROJECT / "tests" / "acceptance" / "dags",
        paused_at_creation=True,
        env={
            **AIRFLOW.impatient,
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            f"{_TRANSPORT}VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT),
            f"{_TRANSPORT}UNACKED_RESTORE_INTERVAL": "1",
            f"{_TRANSPORT}UNACKED_RESTORE_THROTTLE": "1",
        },
    )
    try:
        yield stack.start()
    finally:
        stack.remove()


@pytest.fixture
def meetings(celery_stack: Stack, tmp_path: Path) -> Iterator[Meetings]:
    with JobGuard(redis=celery_stack.redis_url, postgres=celery_stack.status_dsn) as guard:
        folder = tmp_path / "meetings"
        folder.mkdir()
        made = Meetings(celery_stack, guard, folder)
        yield made
        made.end()
        celery_stack.airflow.start()  # workers that a test has lost


def worker_of(stack: Stack, pid: int) -> str:
    """The worker among whose descendants the process is."""
    ancestors = {process.pid for process in psutil.Process(pid).parents()}
    return next(name for name in stack.airflow.workers if stack.airflow.daemons[name].pid in ancestors)


def answers(stack: Stack, *workers: str) -> bool:
    """Whether the broker reaches each of these workers."""
    celery = stack.airflow.celery
    assert celery is not None
    return celery.answers(workers)
