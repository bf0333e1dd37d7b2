"""A real Airflow with the cases' DAGs, and a meeting place for a test and the attempts that it provokes."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from airflow_exclusive import JobGuard
from deploy.embedded.airflow import AirflowDeployment
from deploy.embedded.airflow_api import AirflowApi
from deploy.embedded.stack import Stack
from tests.support.airflow_line import AIRFLOW
from tests.support.diary import assert_no_overlap, worked
from tests.support.jobs import freeze, thaw
from tests.support.waiting import eventually

PATIENCE = 90
"""Seconds until an event that must come is given up on; nothing is ever expected to take so long."""

_LONG_ENOUGH = 0.5
"""Seconds for which a later attempt works before it is let go: an earlier one that still worked would be seen."""


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
        notes = eventually(
            lambda: found if len(found := self._notes("started")) >= count else None,
            timeout=PATIENCE,
        )
        if count > 1:
            eventually(lambda: self._has_worked_for(int(notes[-1].stem)) > _LONG_ENOUGH, timeout=PATIENCE)
        return notes

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

    def first_try_fails(self) -> None:
        """Seen in what stays: for how long a task waits for its retry depends on the machine."""
        eventually(lambda: "failed" in self.tries(), timeout=PATIENCE, every=0.5)

    def clear_ended(self) -> None:
        """Clear the task once its run has ended.

        Airflow puts only an ended run back to work, and a scheduler that is just ending it doesn't see the clear: the
        run would have ended, with a task that nobody starts.
        """
        self.ended()
        self.api.clear(self.dag_id, self.run_id, "work")

    def outcomes(self) -> list[str]:
        """Of all attempts, oldest first."""
        return [attempt.outcome for attempt in reversed(self.guard.history(self.job))]

    def given(self, task_id: str, *, map_index: int = -1) -> Any:
        """What reached a task that passes on what it is given."""
        return self.api.xcom(self.dag_id, self.run_id, task_id, map_index=map_index)

    def effects(self, run_key: str | None = None) -> list[int]:
        """The tokens under which the tick's effect was committed."""
        query = "SELECT token FROM effects WHERE job = %s AND run_key = %s ORDER BY token"
        with psycopg.connect(self.stack.warehouse_dsn) as connection:
            return [token for (token,) in connection.execute(query, [self.job, run_key or self.run_id])]

    def tries(self) -> list[str]:
        """What Airflow shows for every try of the task instance, oldest first."""
        return [str(one["state"]) for one in self.api.tries(self.dag_id, self.run_id, "work")]

    def next_tick(self) -> Meeting:
        """Another run for the same job: nothing that happened may be in its way."""
        conf = {"job": self.job, "folder": str(self.folder)}
        return replace(self, run_id=self.api.trigger_dag(self.dag_id, conf=conf))

    def beside(self, dag_id: str) -> Meeting:
        """A run of another case, or one more of this, for the same job."""
        self.api.wait_for_dag(dag_id)
        self.api.unpause(dag_id)
        run_id = self.api.trigger_dag(dag_id, conf={"job": self.job, "folder": str(self.folder)})
        return replace(self, dag_id=dag_id, run_id=run_id)

    def assert_in_order(self, *outcomes: str, effects: int | None = None) -> None:
        """The attempts ended like this, none worked while another did, the effect came once, and the job isn't stuck.

        effects: how many there are; by default one for each success.
        """
        expected = outcomes.count("success") if effects is None else effects
        assert_no_overlap(self.folder, attempts=len(outcomes))
        assert self.outcomes() == list(outcomes)
        assert len(self.effects()) == expected
        self._assert_next_tick_gets_through()

    def assert_done_once(self, *, replaced_once: bool = True) -> None:
        """The same, however many attempts failed before the one that succeeded, at work or before they came to it.

        replaced_once: see `second_waits_until_thawed`.
        """
        assert self.wait_for("success", "failed")["state"] == "success"
        assert self.ended() == "success"
        *before, last = self.outcomes()
        assert last == "success"
        assert set(before) <= {"failed"}
        assert len(self.effects()) == 1
        self._assert_next_tick_gets_through(at_first_try=replaced_once)

    def _assert_next_tick_gets_through(self, *, at_first_try: bool = True) -> None:
        attempts = len(worked(self.folder))
        after = self.next_tick()
        after.go()
        after.wait_for("success", "failed")
        *before, last = after.tries()
        assert last == "success"
        if at_first_try:
            assert not before
        assert_no_overlap(self.folder, attempts=len(worked(self.folder)) if before else attempts + 1)

    def ended(self) -> str:
        """The state in which the run has ended."""
        return self.api.wait_for_run(self.dag_id, self.run_id, timeout=PATIENCE)

    def second_waits(self, first: dict[str, Any]) -> None:
        """Airflow has begun a second try, or yet another one, which waits for the end of the first."""
        eventually(lambda: "own attempt" in self._later_logs(), timeout=PATIENCE, every=0.5)
        assert works(first["pid"])
        assert len(self.started()) == 1

    def second_comes(self) -> None:
        """Airflow has begun a second try: it waits for the end of the first, or works already."""
        eventually(
            lambda: "own attempt" in self._later_logs() or len(self._notes("started")) > 1,
            timeout=PATIENCE,
            every=0.5,
        )

    def second_follows(self, first: dict[str, Any]) -> None:
        """The second try works once the first has really ended."""
        self.note(2)
        assert not works(first["pid"])
        self.go()
        self.wait_for("success")
        assert self.tries() == ["failed", "success"]
        assert self.ended() == "success"

    def second_waits_until_thawed(self, first: dict[str, Any], *, replaced_once: bool = True) -> None:
        """The same, the first one's supervisor being frozen; awake, it hears that its task was replaced.

        replaced_once: whether Airflow has no reason to put a third try in the place of the second.
        """
        self.second_waits(first)
        thaw(first["supervisor"])
        if not AIRFLOW.ends_replaced_tasks:
            self.go()
            self.wait_for("success")
            assert self.finished() == ["1"]
            assert self.ended() == "success"
            assert "success without running again" in self._later_logs()
            self.assert_in_order("success")
        elif replaced_once:
            self.second_follows(first)
            self.assert_in_order("failed", "success")
        else:
            self.note(2)
            assert not works(first["pid"])
            self.go()
            self.assert_done_once(replaced_once=False)
            assert "1" not in self.finished(), "the first was ended, at work"

    def wait_until_confirmed(self, try_number: int) -> None:
        """Until the ledger knows that Airflow has shown the success.

        Cleared sooner, as no person can, the task would be killed by Airflow before it has noted that.
        """
        ask = "SELECT max(confirmed_try) FROM exclusive.scheduled_job_run WHERE job_name = %s"
        with psycopg.connect(self.stack.status_dsn, autocommit=True) as connection:
            eventually(lambda: connection.execute(ask, [self.job]).fetchone() == (try_number,), timeout=PATIENCE)

    def log(self, try_number: int) -> str:
        return self.api.task_log(self.dag_id, self.run_id, "work", try_number=try_number)

    def asked_for_log(self, try_number: int) -> str:
        """The log, or nothing as long as there is no such try."""
        try:
            return self.log(try_number)
        except httpx.HTTPStatusError:
            return ""

    def _later_logs(self) -> str:
        """Of the tries after the first."""
        numbers = (one["try_number"] for one in self.api.tries(self.dag_id, self.run_id, "work"))
        return "\n".join(self.asked_for_log(number) for number in numbers if number > 1)

    def tell(self) -> str:
        """All that is known of it, for whoever has to find out what went wrong."""
        tries = self.api.tries(self.dag_id, self.run_id, "work")
        lines = [f"== {self.dag_id} {self.run_id}", *map(str, tries), "-- attempts and refusals"]
        lines += map(str, [*self.guard.history(self.job), *self.guard.refusals(self.job)])
        for number in (one["try_number"] for one in tries):
            lines += [f"-- log of try {number}", self.asked_for_log(number)]
        return "\n".join(lines)

    def _has_worked_for(self, token: int) -> float:
        first, last = worked(self.folder).get(token, (0.0, 0.0))
        return last - first

    def _notes(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"*.{kind}"), key=lambda path: int(path.stem))


class Meetings:
    def __init__(self, stack: Stack, guard: JobGuard, folder: Path) -> None:
        self._stack, self._guard, self._folder = stack, guard, folder
        self._made: list[Meeting] = []
        with psycopg.connect(stack.warehouse_dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS effects (job text, run_key text, token bigint)")

    def run(self, dag_id: str) -> Meeting:
        """Trigger a case under a job of its own."""
        job = f"{dag_id}_{uuid.uuid4().hex[:8]}"
        api = self._stack.airflow.api
        api.wait_for_dag(dag_id)
        api.unpause(dag_id)
        folder = self._folder / job
        folder.mkdir()
        run_id = api.trigger_dag(dag_id, conf={"job": job, "folder": str(folder)})
        self._made.append(Meeting(self._stack, self._guard, dag_id, run_id, job, folder))
        return self._made[-1]

    def tell(self) -> str:
        return "\n".join(meeting.tell() for meeting in self._made)

    def end(self) -> None:
        """Whoever is still at work may end."""
        for folder in self._folder.iterdir():
            (folder / "go").touch()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Servers and logs are gone after the tests: what they know of one that failed goes into its report."""
    report = yield
    meetings = getattr(item, "funcargs", {}).get("meetings")
    if report.when == "call" and report.failed and meetings is not None:
        try:
            report.sections.append(("What Airflow and the ledger say", meetings.tell()))
        except Exception as error:
            report.sections.append(("What Airflow and the ledger say", f"can't be told: {error!r}"))
    return report


@pytest.fixture
def meetings(airflow_stack: Stack, tmp_path: Path) -> Iterator[Meetings]:
    with JobGuard(redis=airflow_stack.redis_url, postgres=airflow_stack.status_dsn) as guard:
        folder = tmp_path / "meetings"
        folder.mkdir()
        made = Meetings(airflow_stack, guard, folder)
        yield made
        made.end()


@contextmanager
def scheduler_with(airflow: AirflowDeployment, env: Mapping[str, str]) -> Iterator[None]:
    """Airflow with a new scheduler that has these settings, its workers included, and then with one as before."""
    try:
        _restart_scheduler(airflow, env)
        yield
    finally:
        _restart_scheduler(airflow)


def _restart_scheduler(airflow: AirflowDeployment, env: Mapping[str, str] | None = None) -> None:
    airflow.kill("scheduler", family=True)
    airflow.start("scheduler", env=env)
    airflow.wait_ready()


def works(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def keeper_of(pid: int) -> int:
    """The keeper of a job's process."""
    (found,) = [
        child.pid for child in psutil.Process(pid).children() if "airflow_exclusive.keeper" in " ".join(child.cmdline())
    ]
    return found


def kill_at_once(*pids: int) -> None:
    """None of them sees another one die."""
    freeze(*pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def lose_node(pid: int) -> None:
    """What a power cut does: the job and its keeper are gone at the same moment."""
    kill_at_once(keeper_of(pid), pid)
