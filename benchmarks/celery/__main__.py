"""`python -m benchmarks.celery`: a line for each setting and fault, and all of them in `.bench/celery.json`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import psycopg
import redis

from deploy.embedded import CELERY, Stack
from deploy.embedded.airflow_api import FINISHED
from deploy.embedded.celery import BROKER_DATABASE
from deploy.embedded.process import NotReadyError, wait_until
from deploy.embedded.release import PROJECT

FOLDER = PROJECT / ".bench"
SECONDS = 5
"""How long a job works."""
QUEUED = 2
"""Further tasks, for which the worker has no place yet."""
HEARTBEAT_TIMEOUT = 15
"""Seconds until Airflow gives up a task that is silent; its default is 300."""
PATIENCE = 120

_TRANSPORT = "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__"
_IMPATIENT = {
    f"{_TRANSPORT}VISIBILITY_TIMEOUT": "10",
    f"{_TRANSPORT}UNACKED_RESTORE_INTERVAL": "5",
    f"{_TRANSPORT}UNACKED_RESTORE_THROTTLE": "1",
}
SETTINGS: dict[str, dict[str, str]] = {
    "Airflow's own": {},
    "task_acks_late=False": {"AIRFLOW__CELERY__TASK_ACKS_LATE": "False"},
    "worker_prefetch_multiplier=4": {"AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "4"},
    "task_reject_on_worker_lost=True": {"AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": '{"task_reject_on_worker_lost": true}'},
    "visibility_timeout=10": _IMPATIENT,
    "visibility_timeout=10, prefetch 4": {**_IMPATIENT, "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "4"},
}


@dataclass(frozen=True)
class Outcome:
    """Seconds from the fault to the effect, and how often the effect is there."""

    settings: str
    fault: str
    guarded: float | None
    unguarded: float | None
    queued: float | None
    guarded_effects: int
    unguarded_effects: int
    queued_effects: int
    """Of all the queued tasks together, which are unguarded too."""

    def __str__(self) -> str:
        times = " ".join(
            f"{kind} {'never' if (value := getattr(self, kind)) is None else f'{value:.0f} s'}"
            for kind in ("guarded", "unguarded", "queued")
        )
        effects = (
            f"effects {self.guarded_effects} guarded, {self.unguarded_effects} unguarded, {self.queued_effects} queued"
        )
        return f"{self.settings}: {self.fault}: {times}; {effects}"


class Bench:
    """Worker 1 has two places, for a guarded and an unguarded job; worker 2 starts when they are taken."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        with psycopg.connect(stack.warehouse_dsn) as connection:
            connection.execute(
                "CREATE TABLE effects (run_id text, dag text, at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
        for dag in ("guarded", "unguarded", "queued"):
            stack.airflow.api.wait_for_dag(dag)
            stack.airflow.api.unpause(dag)

    def measure(self, settings: str, fault: str, break_it: Callable[[Bench], Callable[[], None]]) -> Outcome:
        airflow = self.stack.airflow
        for worker in list(airflow.workers):
            if worker in airflow.daemons:
                airflow.lose(worker)
        with redis.Redis.from_url(self.stack.servers.valkey.url(BROKER_DATABASE)) as broker:
            broker.flushdb()
        for file in self.folder.iterdir():
            file.unlink()
        self._start("worker-1", settings)
        runs = {"guarded": [self._trigger("guarded")], "unguarded": [self._trigger("unguarded")]}
        self._until(lambda: len(self.pids()) == 2, "both jobs at work")
        runs["queued"] = [self._trigger("queued") for _ in range(QUEUED)]
        for run in runs["queued"]:
            airflow.api.wait_for_task("queued", run, "job", states={"queued"}, timeout=PATIENCE)
        struck = time.time()
        mend = break_it(self)
        self._start("worker-2", settings)
        with suppress(NotReadyError):
            self._until(lambda: all(self._effects(run) for some in runs.values() for run in some), "every effect")
        mend()
        with suppress(NotReadyError):
            self._until(lambda: not any(map(psutil.pid_exists, self.pids())), "the end of all who work")
            # A try whose supervisor was killed is only missed when its heartbeat is, and what follows counts as well.
            api = self.stack.airflow.api
            self._until(
                lambda: all(api.dag_run(dag, run)["state"] in FINISHED for dag, some in runs.items() for run in some),
                "the end of all runs",
            )
        at = {dag: [self._effects(run) for run in some] for dag, some in runs.items()}
        return Outcome(
            settings,
            fault,
            *(max(found[0] for found in at[dag]) - struck if all(at[dag]) else None for dag in runs),  # type: ignore[arg-type]
            guarded_effects=len(at["guarded"][0]),
            unguarded_effects=len(at["unguarded"][0]),
            queued_effects=sum(map(len, at["queued"])),
        )

    def pids(self) -> list[int]:
        return [int(file.suffix[1:]) for file in self.folder.iterdir()]

    def _start(self, worker: str, settings: str) -> None:
        airflow = self.stack.airflow
        airflow.start(worker, env={"AIRFLOW__CELERY__WORKER_CONCURRENCY": "2", **SETTINGS[settings]})
        celery = airflow.celery
        assert celery is not None
        self._until(lambda: celery.answers([worker]), worker)

    def _trigger(self, dag: str) -> str:
        seconds = 0 if dag == "queued" else SECONDS
        return self.stack.airflow.api.trigger_dag(dag, conf={"folder": str(self.folder), "seconds": seconds})

    def _effects(self, run_id: str) -> list[float]:
        """When they came, oldest first; seconds since the epoch."""
        query = "SELECT extract(epoch FROM at)::float8 FROM effects WHERE run_id = %s ORDER BY at"
        with psycopg.connect(self.stack.warehouse_dsn) as connection:
            return [at for (at,) in connection.execute(query, [run_id])]

    @staticmethod
    def _until(probe: Callable[[], bool], what: str) -> None:
        wait_until(lambda: probe() or None, timeout=PATIENCE, what=what, period=0.25)


def _kill(bench: Bench) -> Callable[[], None]:
    bench.stack.airflow.lose("worker-1")
    return lambda: None


def _kill_supervisors(bench: Bench) -> Callable[[], None]:
    for pid in bench.pids():
        supervisor = psutil.Process(pid).parent()
        assert supervisor is not None
        supervisor.kill()
    return lambda: None


def _stop(bench: Bench) -> Callable[[], None]:
    family = bench.stack.airflow.daemons["worker-1"].family()
    for process in family:
        process.suspend()

    def go_on() -> None:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    return go_on


FAULTS = {"worker killed": _kill, "supervisors killed": _kill_supervisors, "worker stopped": _stop}


def _measure(bench: Bench) -> Iterator[Outcome]:
    for settings in SETTINGS:
        for fault, break_it in FAULTS.items():
            yield bench.measure(settings, fault, break_it)


def main() -> int:
    outcomes = []
    jobs = FOLDER / "jobs"
    stack = Stack(
        FOLDER / "celery",
        replace(CELERY, workers=2),
        dags_folder=Path(__file__).parent / "dags",
        durable=False,
        paused_at_creation=True,
        env={
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "90",  # 600 by default
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
        },
    )
    try:
        jobs.mkdir(parents=True, exist_ok=True)
        stack.start()
        for outcome in _measure(Bench(stack, jobs)):
            print(outcome, flush=True)
            outcomes.append(outcome)
    finally:
        stack.remove()
    (FOLDER / "celery.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
    return 0 if all(one.guarded_effects == 1 for one in outcomes) else 1


sys.exit(main())
