"""Two deployments with one DAG folder, one lock server and one status database between them.

The second is one of Airflow 2.11, or with `--second green` another one of Airflow 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from deploy.embedded.airflow_api import AirflowApi
from deploy.embedded.release import AIRFLOW_3
from deploy.embedded.stack import FULL, MINI, Profile, Stack
from tests.side_by_side.dags.shared_ticks import BESIDE, JOB
from tests.support.airflow_line import LINES
from tests.support.waiting import eventually

PATIENCE = 180
"""Seconds until an event that must come is given up on; nothing is ever expected to take so long."""

DONE = ("success", "skipped")

# A run that ends while its DAG is paused stays counted in Airflow 3.3 until the DAG is read again: until then, of a DAG
# with max_active_runs=1 nothing is begun.
_READ_OFTEN = {f"AIRFLOW__{section}__MIN_FILE_PROCESS_INTERVAL": "5" for section in ("SCHEDULER", "DAG_PROCESSOR")}
GREEN = Profile("green", AIRFLOW_3, "LocalExecutor", ports=range(8380, 8400))
SECOND = {profile.name: profile for profile in (MINI, GREEN)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ticks", type=int, default=200, help="Due times that both deployments are to work through.")
    parser.addoption("--second", choices=[*SECOND], default=MINI.name, help="The deployment beside the full one.")


@dataclass(frozen=True)
class Deployment:
    stack: Stack
    folder: Path

    @property
    def name(self) -> str:
        return self.stack.profile.name

    @property
    def api(self) -> AirflowApi:
        return self.stack.airflow.api

    def begin(self, dag_id: str = JOB) -> None:
        self.api.wait_for_dag(dag_id)
        self.api.unpause(dag_id)

    def pause(self, dag_id: str = JOB) -> None:
        self.api.pause(dag_id)

    def start_again(self) -> None:
        self.stack.start()

    def start_again_paused(self, dag_id: str = JOB) -> None:
        """As `start_again`, with no tick begun: between its scheduler's start and a `pause` it could be through all."""
        with psycopg.connect(self.stack.metadata_dsn) as connection:
            connection.execute("UPDATE dag SET is_paused = true WHERE dag_id = %s", [dag_id])
        self.start_again()

    def hold(self) -> None:
        """Who works here from now on comes to no end."""
        (self.folder / f"hold-{self.name}").touch()

    def let_go(self) -> None:
        (self.folder / f"hold-{self.name}").unlink(missing_ok=True)

    def kill(self) -> None:
        self.stack.airflow.lose()

    @property
    def waits_as(self) -> str:
        """The state of a task that stands by: only where no scheduler would wait with it does it keep its worker."""
        return "up_for_reschedule" if self.stack.profile.executor == "SequentialExecutor" else "running"

    def run_something_else(self) -> None:
        """An unguarded task, from its beginning to its end."""
        self.begin(BESIDE)
        run_id = self.api.trigger_dag(BESIDE)
        assert self.api.wait_for_run(BESIDE, run_id, timeout=PATIENCE) == "success"

    def tasks(self, dag_id: str = JOB, task_id: str = "work") -> list[dict[str, Any]]:
        """What its metadata database says of each tick: run_key, run_id, state, and what the task was told."""
        query = """
            SELECT to_char(r.data_interval_end AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS run_key, r.run_id,
                t.state, x.value AS told
            FROM dag_run r
            JOIN task_instance t ON t.dag_id = r.dag_id AND t.run_id = r.run_id
            LEFT JOIN xcom x ON x.dag_id = t.dag_id AND x.run_id = t.run_id AND x.task_id = t.task_id
                AND x.key = 'exclusive'
            WHERE r.dag_id = %s AND t.task_id = %s ORDER BY 1
        """
        with psycopg.connect(self.stack.metadata_dsn, row_factory=dict_row) as connection:
            return connection.execute(query, [dag_id, task_id]).fetchall()

    def states(self, dag_id: str = JOB, task_id: str = "work") -> dict[str, str]:
        return {task["run_key"]: task["state"] for task in self.tasks(dag_id, task_id)}


def text(told: object) -> str:
    """What an XCom has, as either Airflow stores it."""
    return bytes(told).decode() if isinstance(told, (bytes, memoryview)) else str(told)


@dataclass(frozen=True)
class Ledger:
    """What the two share, read past every library of ours."""

    status_dsn: str
    warehouse_dsn: str

    def attempts(self) -> list[dict[str, Any]]:
        query = """
            SELECT run_key, outcome, node_id, deployment, fencing_token, started_at, now() AS now
            FROM exclusive.scheduled_job_run WHERE job_name = %s ORDER BY fencing_token
        """
        with psycopg.connect(self.status_dsn, row_factory=dict_row) as connection:
            return connection.execute(query, [JOB]).fetchall()

    def begun(self) -> list[tuple[str, int, str]]:
        """What bodies wrote when they began, by no means of ours."""
        return self._read("begun")

    def lines(self) -> list[tuple[str, int, str]]:
        """What they wrote when they ended, in transactions of their leases."""
        return self._read("line")

    def _read(self, table: str) -> list[tuple[str, int, str]]:
        with psycopg.connect(self.warehouse_dsn) as connection:
            return connection.execute(
                f"SELECT run_key, token, deployment FROM {table} ORDER BY run_key, token"
            ).fetchall()

    def now(self) -> datetime:
        """By the clock that judges leases."""
        with psycopg.connect(self.status_dsn) as connection:
            (answer,) = connection.execute("SELECT clock_timestamp()").fetchone() or ()
        return answer

    def done(self) -> set[str]:
        return {attempt["run_key"] for attempt in self.attempts() if attempt["outcome"] == "success"}

    def runner(self) -> str | None:
        """The deployment that has the job and has begun to work."""
        running = [one for one in self.attempts() if one["outcome"] == "running"]
        begun = self.begun()
        return next(
            (
                one["deployment"]
                for one in running
                if (one["run_key"], one["fencing_token"], one["deployment"]) in begun
            ),
            None,
        )

    def wait_for_runner(self, deployment: Deployment) -> None:
        eventually(lambda: self.runner() == deployment.name, timeout=PATIENCE, every=0.2)

    def wait_for_waiter(self, deployment: Deployment) -> None:
        """Until it stands by at a tick that isn't done while another deployment runs the job."""

        def waits() -> bool:
            done = self.done()
            return any(
                state == deployment.waits_as and run_key not in done for run_key, state in deployment.states().items()
            )

        eventually(waits, timeout=PATIENCE, every=0.5)


@pytest.fixture(scope="session")
def ticks(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--ticks"))


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Progress, for whoever waits."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None

    def told(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    return told


@pytest.fixture(scope="session")
def deployments(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, ticks: int, say: Callable[[str], None]
) -> Iterator[tuple[Deployment, Deployment]]:
    """The full one and the second one, which all tests share; each test has DAGs of its own."""
    second = SECOND[pytestconfig.getoption("--second")]
    if not second.release.python.exists():
        pytest.fail("Airflow 2.11 isn't installed: make venv-mini", pytrace=False)
    home = tmp_path_factory.mktemp("side_by_side")
    folder = home / "held"
    folder.mkdir()

    def stack(profile: Profile) -> Stack:
        line = next(line for line in LINES if line.release is profile.release)
        return Stack(
            home / "stack",
            profile,
            dags_folder=Path(__file__).parent / "dags",
            durable=False,
            paused_at_creation=True,
            env={**line.impatient, **_READ_OFTEN, "SIDE_BY_SIDE_TICKS": str(ticks), "SIDE_BY_SIDE_FOLDER": str(folder)},
            say=lambda what: say(f"{profile.name}: starting {what}"),
        )

    both = stack(FULL), stack(second)
    try:
        for one in both:
            one.start()
        with psycopg.connect(both[0].warehouse_dsn, autocommit=True) as connection:
            for table in ("begun", "line"):
                connection.execute(f"CREATE TABLE {table} (run_key text, token bigint, deployment text)")
        yield Deployment(both[0], folder), Deployment(both[1], folder)
    finally:
        for one in both:
            one.remove()


@pytest.fixture
def ledger(deployments: tuple[Deployment, Deployment]) -> Ledger:
    stack = deployments[0].stack
    return Ledger(stack.status_dsn, stack.warehouse_dsn)
