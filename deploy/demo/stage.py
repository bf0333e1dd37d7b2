"""Everything that a demonstration starts, and its certain end."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psycopg
from rich.table import Table

from airflow_exclusive import JobGuard
from deploy.demo.account import Account
from deploy.demo.orders import Checkpoint
from deploy.demo.ticks import GUARDED_DAG, UNGUARDED_DAG, Period
from deploy.embedded import Profile, Stack
from deploy.embedded.airflow_api import FINISHED
from deploy.embedded.process import Daemon, NotReadyError, kill_all, marked, wait_until
from deploy.embedded.release import PROJECT
from include.checkpoints import FOLDER as CHECKPOINTS
from include.flights import load_flights

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

T = TypeVar("T")

_STOP_WITHIN = 3.0
"""Seconds for Airflow to end by itself; a task that waits at a checkpoint would keep it up for ever."""
_SETTINGS = {
    # A task whose supervisor has died is tried again after seconds instead of minutes.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    # Nobody edits these files: reading them again only costs time.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
}


@dataclass(frozen=True)
class Share:
    """How much of a DAG is run: the ticks of `period`, so many of them at once."""

    dag: str
    period: Period
    at_once: int


class Stage:
    """A deployment of its own with nothing in it but the two roll-ups.

    As a context manager everything that it started is gone when the context ends.
    """

    patience: float = 90
    """Seconds within which anything that must come has come."""
    turn_within: float = 120
    """Seconds within which the next tick that is to be struck has its turn."""
    nodes: Collection[str]
    """What Airflow's nodes are called in the ledger."""
    introduction: str
    """What begins now, for people who wait."""

    def __init__(
        self,
        folder: Path,
        profile: Profile,
        guarded: Share,
        unguarded: Share,
        *,
        durable: bool = False,
        env: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.guarded, self.unguarded = guarded, unguarded
        self.checkpoints = folder / "checkpoints"
        self.begun = False
        self._say = say
        self._dags = folder / "dags"
        self.stack = Stack(
            folder / "stack",
            profile,
            dags_folder=self._dags,
            durable=durable,
            paused_at_creation=True,
            env={**_SETTINGS, CHECKPOINTS: str(self.checkpoints), **env},
            say=say,
        )
        self._guard: JobGuard | None = None

    @property
    def guard(self) -> JobGuard:
        """The demo's own view of the ledger."""
        if self._guard is None:
            self._guard = JobGuard(redis=self.stack.redis_url, postgres=self.stack.status_dsn)
        return self._guard

    def checkpoint(self, tick: str, point: str) -> Checkpoint:
        return Checkpoint(self.checkpoints, tick, point)

    @property
    def vital(self) -> list[Daemon]:
        """Whoever must not die."""
        return list(self.stack.daemons.values())

    def until(self, probe: Callable[[], T | None], what: str, *, timeout: float) -> T:
        return wait_until(probe, timeout=timeout, what=what, daemons=self.vital, period=0.1)

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

    def begin(self, struck: Sequence[str]) -> None:  # noqa: ARG002 - for others, who know what to do about them
        """Let Airflow run; `struck` are the ticks that something will happen to."""
        api = self.stack.airflow.api
        for share in (self.guarded, self.unguarded):
            api.unpause(share.dag)
            api.backfill(share.dag, share.period.first, share.period.last, max_active_runs=share.at_once)
        self.begun = True

    def let_go(self, tick: str) -> None:
        """Who was held back from this tick may have it; here that is nobody."""

    def progress(self) -> dict[str, tuple[int, int]]:
        """Whose, and of how many ticks how many are through."""
        api = self.stack.airflow.api
        shares = {"Airflow, guarded": self.guarded, "Airflow, unguarded": self.unguarded}
        return {name: (api.count_runs(share.dag, *FINISHED), len(share.period.ticks)) for name, share in shares.items()}

    def table(self, account: Account, struck: dict[str, str]) -> Table:
        """The account for people; `struck` has a sign for each tick that a fault has hit."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What else is worth saying at the end."""
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._guard is not None:
            self._guard.close()
        with suppress(NotReadyError):
            self.stack.airflow.stop(timeout=_STOP_WITHIN)
        self.stack.stop()

    def _clear(self) -> None:
        """Forget the last demo; end what is left of it, should it have been killed."""
        earlier = Stack(self.folder / "stack", self.stack.profile)
        earlier.attach()
        earlier.remove()
        kill_all(marked("AIRFLOW_HOME", str(self.stack.home)))  # should what it wrote down be gone as well
        for folder in (self.checkpoints, self._dags):
            shutil.rmtree(folder, ignore_errors=True)
        for log in self.folder.glob("*.log"):
            log.unlink()
