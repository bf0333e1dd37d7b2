"""The stage: Airflow with the CeleryExecutor, three workers, and a broker that loses patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
from rich.table import Table

from deploy.demo.account import Account, by_month
from deploy.demo.stage import Share, Stage
from deploy.demo.ticks import GUARDED_DAG, JOB, UNGUARDED_DAG, Period
from deploy.embedded import CELERY
from deploy.embedded.process import Daemon
from deploy.embedded.stack import STATE_FOLDER

DEMO_FOLDER = STATE_FOLDER / "demo-celery"

VISIBILITY_TIMEOUT = 10
"""Seconds until the broker gives a task that runs to another worker as well. Airflow's own value is a day."""
_AT_ONCE = 6
_REDELIVERED = "Task already running elsewhere, ignoring redelivered message"
_SETTINGS = {
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT),
    # By default workers look for such tasks every 100 s, at every tenth of their tries.
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_INTERVAL": "5",
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_THROTTLE": "1",
    # In a Celery worker the end of a task is noticed at this interval, 5 s by default: its place is free sooner.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    # A message that a killed worker took along is sent again after this time instead of ten minutes.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
}


class CeleryWorkers(Stage):
    """Three workers with four places each. What is on the broker outlives its restart, as it should anywhere."""

    patience = 180
    turn_within = 900

    def __init__(
        self,
        period: Period,
        unguarded: Period,
        folder: Path = DEMO_FOLDER,
        *,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(
            folder,
            replace(CELERY, parallelism=2 * _AT_ONCE),
            Share(GUARDED_DAG, period, _AT_ONCE),
            Share(UNGUARDED_DAG, unguarded, _AT_ONCE),
            durable=True,
            env=_SETTINGS,
            say=say,
        )
        self.nodes = [f"worker-{number}" for number in range(1, self.stack.profile.workers + 1)]
        self.introduction = (
            f"{len(self.nodes)} workers want the {len(period.ticks)} ticks of {period.name}, {period.flights:,} flights"
        )

    @property
    def vital(self) -> list[Daemon]:
        """Workers and broker may come and go."""
        return [daemon for name, daemon in self.stack.daemons.items() if name not in self.nodes and name != "Valkey"]

    def table(self, account: Account, struck: dict[str, str]) -> Table:
        return by_month(account, struck)

    def notes(self) -> list[str]:
        redelivered = sum(self.redeliveries(worker) for worker in self.nodes)
        return [f"The broker delivered {redelivered} tasks again that were running; Airflow refused to start them."]

    def ahead(self, tick: str) -> str:
        """This tick, or a later one if it is too late to wait for this one."""
        ticks, latest = self.guarded.period.ticks, self.guard.history(JOB, limit=2 * _AT_ONCE)
        if not latest:
            return tick
        begun = ticks.index(max(attempt.run_key for attempt in latest))
        return max(tick, ticks[min(begun + 2 * _AT_ONCE, len(ticks) - 1)])

    def worker_of(self, job: psutil.Process) -> str:
        """The worker among whose descendants this process is."""
        ancestors = {process.pid for process in job.parents()}
        return next(name for name in self.nodes if self.stack.daemons[name].pid in ancestors)

    def take_part(self, *workers: str) -> bool:
        """Whether the broker reaches these workers, or all."""
        celery = self.stack.airflow.celery
        return celery is not None and celery.answers(workers or self.nodes)

    def redeliveries(self, worker: str) -> int:
        """How often it was given a task that was running."""
        return self.stack.airflow.log(worker).read_text(errors="replace").count(_REDELIVERED)


@contextmanager
def stopped(worker: Daemon) -> Iterator[None]:
    """The worker with its tasks and their keepers, as when its machine is paused."""
    family = worker.family()
    try:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()
