"""The cases, in the order in which a deployment goes through them."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg

from airflow_exclusive import JobGuard
from benchmarks.comparison import usage
from benchmarks.comparison.columns import Sample
from benchmarks.figures import durations_ms
from deploy.embedded.airflow_api import AirflowApi
from deploy.embedded.stack import Stack

VARIANTS = ("plain", "guarded")
_KILL_ALL = "kill -9 of all of Airflow"
_IDLE = 10.0
_DUE_RUNS = 20
_ONE_RUNS = 5
_ANSWERS = 20
_BLOCKED = 30.0
_PATIENCE = 600.0


class Bench:
    """A deployment that has been started, and what is measured of it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def api(self) -> AirflowApi:
        return self.stack.airflow.api

    def sample(self, case: str, variant: str, value: float, unit: str, detail: str = "") -> Sample:
        return Sample(self.stack.profile.name, case, variant, value, unit, detail)

    def run(self, dag_id: str, **conf: Any) -> float:
        """Trigger a run, wait for its success, and give the seconds from one to the other, as Airflow has them."""
        run_id = self.begin(dag_id, **conf)
        return self.end(dag_id, run_id)

    def begin(self, dag_id: str, **conf: Any) -> str:
        self.api.wait_for_dag(dag_id)
        self.api.unpause(dag_id)
        return self.api.trigger_dag(dag_id, conf=conf)

    def end(self, dag_id: str, run_id: str, timeout: float = _PATIENCE) -> float:
        state = self.api.wait_for_run(dag_id, run_id, timeout=timeout)
        if state != "success":
            raise RuntimeError(f"run {run_id} of {dag_id} ended as {state}")
        run = self.api.dag_run(dag_id, run_id)
        return _seconds(run.get("queued_at") or run["start_date"], run["end_date"])

    # cases

    def idle(self) -> Iterator[Sample]:
        with usage.watched(self.stack) as seen:
            time.sleep(_IDLE)
        yield self.sample("processes", "idle", seen.processes, "")
        yield self.sample("memory", "idle", seen.megabytes, "MB")
        yield self.sample("CPU", "idle", seen.cpu, "cores")

    def one_task(self) -> Iterator[Sample]:
        self.run("one_plain")  # the first run after a start waits for processes to warm up
        for variant in VARIANTS:
            for _ in range(_ONE_RUNS):
                dag_id = f"one_{variant}"
                run_id = self.begin(dag_id)
                yield self.sample("one task, from trigger to success", variant, self.end(dag_id, run_id), "s")
                task = self.api.task_instance(dag_id, run_id, "work")
                took = _seconds(task["start_date"], task["end_date"])
                yield self.sample(
                    "task overhead: a task that does nothing, from its start to its end", variant, took, "s"
                )

    def due(self) -> Iterator[Sample]:
        """Both variants at once, as their times come; paused when each has had its runs."""
        for variant in VARIANTS:
            self.api.wait_for_dag(f"due_{variant}")
            self.api.unpause(f"due_{variant}")
        for variant in VARIANTS:
            _until(lambda variant=variant: self._due_runs(variant)[_DUE_RUNS:])  # type: ignore[misc]
        for variant in VARIANTS:
            self.api.pause(f"due_{variant}")
            for waited in self._due_runs(variant)[1:]:  # the one that was due when the DAG was paused comes at once
                yield self.sample("from due to start", variant, waited, "s")

    def short(self) -> Iterator[Sample]:
        for variant in VARIANTS:
            with usage.watched(self.stack) as seen:
                took = self.run(f"short_{variant}")
            yield self.sample("50 short tasks", variant, took, "s")
            yield self.sample("throughput, short tasks", variant, 50 / took, "/s")
            yield self.sample("processes", f"50 short tasks, {variant}", seen.processes, "")
            yield self.sample("memory", f"50 short tasks, {variant}", seen.megabytes, "MB")
            yield self.sample("CPU", f"50 short tasks, {variant}", seen.cpu, "cores")

    def long(self) -> Iterator[Sample]:
        for variant in VARIANTS:
            yield self.sample("8 tasks of 5 s", variant, self.run(f"long_{variant}"), "s")

    def waiting(self) -> Iterator[Sample]:
        """How long a task takes while another one waits, for a file or for its job."""
        for mode in ("poke", "reschedule", "defer"):
            file = self.folder / uuid.uuid4().hex
            yield self._beside(f"waits_sensor_{mode}", f"sensor, {mode}", file.touch, file=str(file))
        for mode in ("worker", "reschedule", "defer"):
            with JobGuard(redis=self.stack.redis_url, postgres=self.stack.status_dsn, node_id="another node") as guard:
                held = guard.admit("comparison held", wait=60)
                yield self._beside(f"waits_guarded_{mode}", f"exclusive task, {mode}", held.lease.finish)  # type: ignore[union-attr]

    def _beside(self, dag_id: str, variant: str, let_go: Callable[[], object], **conf: Any) -> Sample:
        waiter = self.begin(dag_id, **conf)
        self.api.wait_for_task(
            dag_id, waiter, "work", states=("running", "up_for_reschedule", "deferred"), timeout=_PATIENCE
        )
        other = self.begin("one_plain")
        try:
            self.end("one_plain", other, timeout=_BLOCKED)
            blocked = ""
        except TimeoutError:
            blocked = f"it didn't end before the one that waited did, {_BLOCKED:g} s later"
        let_go()
        took = self.end("one_plain", other)
        try:
            self.end(dag_id, waiter, timeout=_BLOCKED)
        except TimeoutError:
            blocked = blocked or "the one that waits never goes on (no triggerer)"
            self.api.mark(dag_id, waiter, "work", "failed")
            self.api.wait_for_run(dag_id, waiter)
        return self.sample("one task while another one waits", variant, took, "s", blocked)

    def answers(self) -> Iterator[Sample]:
        """What the UI asks for when it shows a DAG: its last runs and their tasks."""
        run_id = self.begin("one_plain")
        self.end("one_plain", run_id)

        def show() -> None:
            self.api.dag_runs("one_plain")
            self.api.task_instances("one_plain", run_id)

        for took in durations_ms(show, times=_ANSWERS):
            yield self.sample("a DAG's runs and tasks, as the UI asks for them", "", took, "ms")

    def alerts(self) -> Iterator[Sample]:
        """From a task's failure until what would send a message has been called."""
        for variant in VARIANTS:
            folder = self.folder / uuid.uuid4().hex
            folder.mkdir()
            dag_id = f"alert_{variant}"
            run_id = self.begin(dag_id, folder=str(folder))
            self.api.wait_for_run(dag_id, run_id, states={"failed"}, timeout=_PATIENCE)
            failed = _moment(self.api.task_instance(dag_id, run_id, "work")["end_date"]).timestamp()
            for whose in ("task", "run"):
                called = _until(lambda path=folder / whose: path.exists() and path.stat().st_mtime)  # type: ignore[misc]
                yield self.sample(f"alert: on_failure_callback of the {whose}", variant, called - failed, "s")

    def killed(self) -> Iterator[Sample]:
        """Until the work is done in spite of it, and how often it then was."""
        for what, kill in (
            ("the task's process", self._kill_task),
            ("the task's supervisor", self._kill_supervisor),
            ("the scheduler and what it started", self._kill_scheduler),
            ("all of Airflow", self._kill_all),
        ):
            for variant in VARIANTS:
                folder = self.folder / uuid.uuid4().hex
                folder.mkdir()
                run_id = self.begin(f"victim_{variant}", folder=str(folder))
                note = json.loads(_until(lambda folder=folder: sorted(folder.glob("*.began")))[0].read_text())  # type: ignore[misc]
                began = time.monotonic()
                kill(note)
                state = self.api.wait_for_run(f"victim_{variant}", run_id, timeout=_PATIENCE)
                took = time.monotonic() - began
                _until(lambda note=note: not _lives(note["pid"]))  # type: ignore[misc]
                begun, effects = len(list(folder.glob("*.began"))), self.effects(folder)
                detail = f"begun {begun} times, in effect {effects} times, the run ended as {state}"
                yield self.sample(f"kill -9 of {what}: until done", variant, took, "s", detail)
                yield self.sample(f"kill -9 of {what}: times in effect", variant, effects, "x", detail)

    def _kill_task(self, note: dict[str, int]) -> None:
        os.kill(note["pid"], signal.SIGKILL)

    def _kill_supervisor(self, note: dict[str, int]) -> None:
        os.kill(note["supervisor"], signal.SIGKILL)

    def _kill_scheduler(self, note: dict[str, int]) -> None:  # noqa: ARG002
        self.stack.airflow.kill("scheduler", family=True)
        self.start_again()

    def _kill_all(self, note: dict[str, int]) -> None:  # noqa: ARG002 - all are called alike
        self.stack.airflow.lose()
        self.start_again()

    def start_again(self) -> None:
        """As a service manager does, at once."""
        self.stack.airflow.start()
        self.stack.airflow.wait_ready()

    def effects(self, folder: Path) -> int:
        with psycopg.connect(self.stack.warehouse_dsn) as connection:
            query = "SELECT count(*) FROM comparison_effect WHERE folder = %s"
            return int((connection.execute(query, [str(folder)]).fetchone() or [0])[0])

    def _due_runs(self, variant: str) -> list[float]:
        query = """
            SELECT extract(epoch FROM t.start_date - r.data_interval_end)::float8
            FROM dag_run r JOIN task_instance t ON t.dag_id = r.dag_id AND t.run_id = r.run_id
            WHERE r.dag_id = %s AND t.start_date IS NOT NULL ORDER BY r.data_interval_end
        """
        with psycopg.connect(self.stack.metadata_dsn) as connection:
            return [waited for (waited,) in connection.execute(query, [f"due_{variant}"])]


def prepare(stack: Stack) -> None:
    with psycopg.connect(stack.warehouse_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS comparison_effect (folder text, kind text)")


def side_by_side(full: Bench, mini: Bench, column: str) -> Iterator[Sample]:
    """The same work, asked for in both at once.

    Nothing that is due: without catch-up each Airflow counts a timedelta from a moment of its own; no tick is shared.
    """
    both = (full, mini)
    with usage.watched(full.stack, mini.stack) as seen:
        time.sleep(_IDLE)
    yield Sample(column, "processes", "idle", seen.processes, "")
    yield Sample(column, "memory", "idle", seen.megabytes, "MB")
    yield Sample(column, "CPU", "idle", seen.cpu, "cores")
    for dag_id, case, number in (("short", "50 short tasks", 50), ("long", "8 tasks of 5 s", 8)):
        for variant in VARIANTS:
            with usage.watched(full.stack, mini.stack) as seen:
                began, conf = time.monotonic(), {"tick": uuid.uuid4().hex}
                runs = [(bench, bench.begin(f"{dag_id}_{variant}", **conf)) for bench in both]
                for bench, run_id in runs:
                    bench.end(f"{dag_id}_{variant}", run_id)
                took = time.monotonic() - began
            ran = {
                bench.stack.profile.name: _states(bench.api.task_instances(f"{dag_id}_{variant}", run_id))
                for bench, run_id in runs
            }
            done = sum(states["success"] for states in ran.values())
            told = "; ".join(f"{name}: {_text(states)}" for name, states in ran.items())
            yield Sample(column, case, variant, took, "s", f"until both are through; {told}")
            yield Sample(column, f"{case}: times each was run", variant, done / number, "x")
            if dag_id == "short":
                yield Sample(column, "throughput, short tasks", variant, done / took, "/s")
            yield Sample(column, "processes", f"{case}, {variant}", seen.processes, "")
            yield Sample(column, "memory", f"{case}, {variant}", seen.megabytes, "MB")
            yield Sample(column, "CPU", f"{case}, {variant}", seen.cpu, "cores")
    for killed, other in (both, both[::-1]):
        yield from _replaced(killed, other, column)


def _replaced(killed: Bench, other: Bench, column: str) -> Iterator[Sample]:
    """Everything of one is gone while it works; the other one waits for the same tick."""
    folder = killed.folder / uuid.uuid4().hex
    folder.mkdir()
    conf = {"tick": folder.name, "folder": str(folder)}
    first = killed.begin("victim_guarded", **conf)
    _until(lambda: sorted(folder.glob("*.began")))
    second = other.begin("victim_guarded", **conf)
    began = time.monotonic()
    killed.stack.airflow.lose()
    other.end("victim_guarded", second)
    took = time.monotonic() - began
    killed.start_again()
    state = killed.api.wait_for_run("victim_guarded", first, timeout=_PATIENCE)
    lost, instead = killed.stack.profile.name, other.stack.profile.name
    effects = other.effects(folder)
    detail = f"{instead} did it; in effect {effects} times; the run of {lost}, started again, ended as {state}"
    yield Sample(column, f"{_KILL_ALL}: until done", f"guarded, {lost}", took, "s", detail)
    yield Sample(column, f"{_KILL_ALL}: times in effect", f"guarded, {lost}", effects, "x", detail)


def _states(tasks: list[dict[str, Any]]) -> Counter[str]:
    return Counter(str(task["state"]) for task in tasks)


def _text(states: Counter[str]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items()))


def _until(answer: Callable[[], Any], timeout: float = _PATIENCE) -> Any:
    give_up_at = time.monotonic() + timeout
    while not (told := answer()):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"still {told!r} after {timeout:g} s")
        time.sleep(0.1)
    return told


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _seconds(start: str, end: str) -> float:
    return (_moment(end) - _moment(start)).total_seconds()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
