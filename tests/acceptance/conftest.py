"""A real Airflow with the cases' DAGs, and a meeting place for a test and the attempts that it provokes."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_exclusive import JobGuard
from deploy.embedded.airflow_api import AirflowApi
from deploy.embedded.stack import Stack
from tests.support.waiting import eventually

PATIENCE = 90
"""Seconds until an event that must come is given up on; nothing is ever expected to take so long."""


@dataclass
class Meeting:
    """One DAG run of a case: the test's side."""

    stack: Stack
    guard: JobGuard
    dag_id: str
    run_id: str
    job: str
    folder: Path

    @property
    def api(self) -> AirflowApi:
        return self.stack.airflow.api

    def started(self, count: int = 1) -> list[Path]:
        """The notes of those who have begun to work, in order of their tokens, once there are `count`."""
        return eventually(lambda: notes if len(notes := self._notes("started")) >= count else None, timeout=PATIENCE)

    def note(self, count: int = 1) -> dict[str, Any]:
        """What the latest of `count` attempts wrote."""
        return dict(json.loads(self.started(count)[-1].read_text()))

    def finished(self) -> list[str]:
        return [note.stem for note in self._notes("finished")]

    def go(self) -> None:
        """Let the work come to its end."""
        (self.folder / "go").touch()

    def stop_again(self) -> None:
        (self.folder / "go").unlink()

    def task(self) -> dict[str, Any]:
        return self.api.task_instance(self.dag_id, self.run_id, "work")

    def wait_for(self, *states: str) -> dict[str, Any]:
        return self.api.wait_for_task(self.dag_id, self.run_id, "work", states=states, timeout=PATIENCE)

    def outcomes(self) -> list[str]:
        """Of all attempts, oldest first."""
        return [attempt.outcome for attempt in reversed(self.guard.history(self.job))]

    def log(self, try_number: int) -> str:
        return self.api.task_log(self.dag_id, self.run_id, "work", try_number=try_number)

    def _notes(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"*.{kind}"), key=lambda path: int(path.stem))


class Meetings:
    def __init__(self, stack: Stack, guard: JobGuard, folder: Path) -> None:
        self._stack, self._guard, self._folder = stack, guard, folder

    def run(self, dag_id: str) -> Meeting:
        """Trigger a case under a job of its own."""
        job = f"{dag_id}_{uuid.uuid4().hex[:8]}"
        api = self._stack.airflow.api
        api.wait_for_dag(dag_id)
        api.unpause(dag_id)
        run_id = api.trigger_dag(dag_id, conf={"job": job, "folder": str(self._folder)})
        return Meeting(self._stack, self._guard, dag_id, run_id, job, self._folder)


@pytest.fixture
def meetings(airflow_stack: Stack, tmp_path: Path) -> Iterator[Meetings]:
    with JobGuard(redis=airflow_stack.redis_url, postgres=airflow_stack.status_dsn) as guard:
        yield Meetings(airflow_stack, guard, tmp_path)
        (tmp_path / "go").touch()  # whoever is still at work may end


def keeper_of(pid: int) -> int:
    """The keeper of a job's process."""
    (found,) = [
        child.pid for child in psutil.Process(pid).children() if "airflow_exclusive.keeper" in " ".join(child.cmdline())
    ]
    return found


def lose_node(pid: int) -> None:
    """What a power cut does: the job and its keeper are gone at the same moment."""
    keeper = keeper_of(pid)
    os.kill(keeper, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
