"""Everything that the demo starts, and its certain end."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg

from airflow_exclusive import JobGuard
from deploy.demo.orders import Checkpoint
from deploy.demo.second_node import SecondNode
from deploy.demo.ticks import FIRST, GUARDED_DAG, LAST, UNGUARDED_DAG
from deploy.embedded import FULL, Stack
from deploy.embedded.process import NotReadyError, kill_all, marked
from deploy.embedded.release import PROJECT
from deploy.embedded.stack import STATE_FOLDER
from include.checkpoints import FOLDER as CHECKPOINTS
from include.flights import load_flights

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

DEMO_FOLDER = STATE_FOLDER / "demo"
NODE = "airflow"

_GUARDED_AT_ONCE = 2
_UNGUARDED_AT_ONCE = 2
_STOP_WITHIN = 3.0
"""Seconds for Airflow to end by itself; a task that waits at a checkpoint would keep it up for ever."""
_SETTINGS = {
    # A task whose supervisor has died is tried again after seconds instead of minutes.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    # Nobody edits these files: reading them again only costs time.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
    "EXCLUSIVE_NODE": NODE,
}


class Stage:
    """A deployment of its own with nothing in it but the two roll-ups, and the second node.

    As a context manager everything that it started is gone when the context ends.
    """

    def __init__(self, folder: Path = DEMO_FOLDER, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._say = say
        self._dags = folder / "dags"
        self.stack = Stack(
            folder / "stack",
            # one more than may be needed at once: a killed worker's place is lost for a while
            replace(FULL, parallelism=_GUARDED_AT_ONCE + _UNGUARDED_AT_ONCE + 1),
            dags_folder=self._dags,
            durable=False,
            paused_at_creation=True,
            env={**_SETTINGS, CHECKPOINTS: str(self.checkpoints)},
            say=say,
        )
        self.second_node: SecondNode | None = None
        self._guard: JobGuard | None = None

    @property
    def guard(self) -> JobGuard:
        """The demo's own view of the ledger."""
        if self._guard is None:
            self._guard = JobGuard(redis=self.stack.redis_url, postgres=self.stack.status_dsn)
        return self._guard

    @property
    def second(self) -> SecondNode:
        assert self.second_node is not None, "the second node has not been started"
        return self.second_node

    def checkpoint(self, tick: str, point: str) -> Checkpoint:
        return Checkpoint(self.checkpoints, tick, point)

    def raise_curtain(self) -> None:
        """Start afresh: the servers, Airflow, and the flights in the warehouse."""
        self._clear()
        self.checkpoints.mkdir(parents=True)
        self._dags.mkdir()
        for dag in (GUARDED_DAG, UNGUARDED_DAG):
            shutil.copy2(PROJECT / "dags" / f"{dag}.py", self._dags)
        self.stack.start()
        self._say("336,776 flights")
        with psycopg.connect(self.stack.warehouse_dsn) as conn:
            load_flights(conn)
        self._say("the sample DAGs")
        for dag in (GUARDED_DAG, UNGUARDED_DAG):
            self.stack.airflow.api.wait_for_dag(dag)

    def begin(self, held_back: Sequence[str]) -> None:
        """Let both nodes run for January; the second one waits with `held_back`."""
        api = self.stack.airflow.api
        for dag, at_once in ((GUARDED_DAG, _GUARDED_AT_ONCE), (UNGUARDED_DAG, _UNGUARDED_AT_ONCE)):
            api.unpause(dag)
            api.backfill(dag, FIRST, LAST, max_active_runs=at_once)
        environment = {
            **self.stack.airflow.environment,
            "EXCLUSIVE_REDIS_URL": self.stack.redis_url,
            "EXCLUSIVE_POSTGRES_DSN": self.stack.status_dsn,
            "WAREHOUSE_DSN": self.stack.warehouse_dsn,
        }
        self.second_node = SecondNode(environment, self.folder / "second-node.log", held_back)
        self.second_node.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.second_node is not None:
            self.second_node.stop()
        if self._guard is not None:
            self._guard.close()
        with suppress(NotReadyError):
            self.stack.airflow.stop(timeout=_STOP_WITHIN)
        self.stack.stop()
        self._sweep()

    def _sweep(self) -> None:
        """End what the stack doesn't find: keepers, which are given no EXCLUSIVE_… and so not its mark either."""
        kill_all(marked("AIRFLOW_HOME", str(self.stack.home)))

    def _clear(self) -> None:
        """Forget the last demo; end what is left of it, should it have been killed."""
        earlier = Stack(self.folder / "stack")
        earlier.attach()
        earlier.remove()
        self._sweep()
        for folder in (self.checkpoints, self._dags):
            shutil.rmtree(folder, ignore_errors=True)
        for log in self.folder.glob("*.log"):
            log.unlink()
