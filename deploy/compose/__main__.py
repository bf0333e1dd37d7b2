"""`python -m deploy.compose`: both deployments of docker-compose.yml count January 2013, and a worker is killed.

They get a project, secrets, ports and volumes of their own, so what is up already isn't touched; at the end all of it
is removed, and only the images stay.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http import HTTPStatus
from types import FrameType
from typing import NoReturn, TypeVar

import click
import httpx
import psycopg
from rich.console import Console

from airflow_exclusive import ExclusiveError, JobGuard
from airflow_exclusive.core.admission import Attempt
from deploy.compose import env
from deploy.compose.engine import Compose, EngineError
from deploy.compose.web import Full, Mini, Web
from deploy.demo.account import draw_up
from deploy.demo.orders import Checkpoint
from deploy.demo.ticks import GUARDED_DAG, JANUARY, JOB
from deploy.embedded.process import NotReadyError, wait_until
from include.flights import FLIGHTS as ALL_FLIGHTS

T = TypeVar("T")

FOLDER = env.PROJECT / ".embedded" / "compose"
FILES = [env.PROJECT / "docker-compose.yml", env.PROJECT / "deploy" / "compose" / "rehearsal.yml"]

_LOAD_DAG = "flights_load"
_STRUCK = JANUARY.ticks[20]
_POINT = "after-commit"
_AT_ONCE = 2
_REPLACED_WITHIN = 60
"""Seconds: twice a lease, Airflow's patience with a silent task as rehearsal.yml has it, and a retry delay."""
_UP_WITHIN = 900
_DONE_WITHIN = 600
_TROUBLE = (EngineError, NotReadyError, ExclusiveError, OSError, httpx.HTTPError, psycopg.Error)

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@click.command()
@click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(min=2), help="Celery workers; one is killed."
)
def main(workers: int) -> None:
    """Run docker-compose.yml with both profiles, kill a worker in the middle of a job, and count."""
    try:
        wrong = Rehearsal(workers).run()
    except _TROUBLE as error:
        wrong = [f"{type(error).__name__}: {error}"]
    except KeyboardInterrupt:
        wrong = ["interrupted; what was started is removed"]
    for one in wrong:
        console.print(one, style="red", markup=False, soft_wrap=True)
    sys.exit(1 if wrong else 0)


class Rehearsal:
    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.began = time.monotonic()
        self.checkpoint = Checkpoint(FOLDER / "checkpoints", _STRUCK, _POINT)
        # ports that are free, whatever .env says
        own = {"AIRFLOW_PORT": "0", "MINI_PORT": "0", "FLOWER_PORT": "0", "CHECKPOINTS": str(self.checkpoint.folder)}
        self.compose = Compose(
            "airflow-exclusive-rehearsal", files=FILES, env_file=FOLDER / "env", env={**os.environ, **own}
        )
        shutil.rmtree(FOLDER, ignore_errors=True)
        self.checkpoint.folder.mkdir(parents=True)
        self.checkpoint.folder.chmod(0o777)  # the containers' user writes there
        env.write(FOLDER / "env")
        self.secrets = env.assignments((FOLDER / "env").read_text())

    def run(self) -> list[str]:
        """From the images to the account; what was wrong with it."""
        with _interruptible(), self.compose:
            try:
                self.start()
                wrong = self.perform()
            except _TROUBLE as error:
                wrong = [f"{type(error).__name__}: {error}"]
            if wrong:
                self.keep_logs()
            self.say("removing everything but the images")
            return wrong

    def say(self, text: str) -> None:
        console.print(f"[dim]{time.monotonic() - self.began:4.0f} s[/] {text}", soft_wrap=True)

    def keep_logs(self) -> None:
        (FOLDER / "services.log").write_text(self.compose.run("logs", "--no-color", timeout=120))
        for service in ("scheduler", "mini-scheduler"):
            self.compose.run("cp", f"{service}:/opt/airflow/logs", str(FOLDER / f"{service}-tasks"))
        console.print(f"The logs of services and tasks are in {FOLDER}", style="red")

    def start(self) -> None:
        self.say("building the images")
        self.compose.run("build", timeout=_UP_WITHIN)
        self.say(f"starting both deployments, with {self.workers} workers")
        scale = ("--scale", f"worker={self.workers}")
        self.compose.run("up", "--wait", "--wait-timeout", str(_UP_WITHIN), *scale, timeout=_UP_WITHIN + 60)
        self.say("everything is healthy; asking the package's doctor in both")
        for service in ("scheduler", "mini-scheduler"):
            self.compose.run("exec", "-T", service, "airflow-exclusive", "doctor")
        page = f"http://{self.compose.address('flower', 5555)}"
        answers = (
            httpx.get(page).status_code,
            httpx.get(page, auth=("admin", self.secrets["FLOWER_PASSWORD"])).status_code,
        )
        if answers != (HTTPStatus.UNAUTHORIZED, HTTPStatus.OK):
            raise NotReadyError(f"Flower answers {answers} without and with its password, not 401 and 200")

    def perform(self) -> list[str]:
        postgres, redis = self.compose.address("postgres", 5432), self.compose.address("redis", 6379)
        runtime, locks = self.secrets["EXCLUSIVE_RUNTIME_PASSWORD"], self.secrets["LOCKS_PASSWORD"]
        warehouse = f"postgresql://warehouse:{self.secrets['WAREHOUSE_PASSWORD']}@{postgres}/warehouse"
        full = Full(self.compose.address("api-server", 8080), self.secrets["ADMIN_PASSWORD"])
        mini = Mini(self.compose.address("mini-webserver", 8080), self.secrets["ADMIN_PASSWORD"])
        with JobGuard(
            redis=f"redis://exclusive:{locks}@{redis}/0",
            postgres=f"postgresql://exclusive_runtime:{runtime}@{postgres}/exclusive",
        ) as guard:
            self.load(full, mini, warehouse)
            self.ask(full, mini, guard)
            killed = self.kill_a_worker(guard)
            self.checkpoint.lift()
            mini.trigger(GUARDED_DAG, _STRUCK)
            self.say("the mini deployment is asked for that tick as well; waiting until all is done")
            wrong = self.finish(full, mini, GUARDED_DAG, runs=len(JANUARY.ticks))
            return [*wrong, *self.account(guard, warehouse, killed)]

    def load(self, full: Full, mini: Mini, warehouse: str) -> None:
        self.say(f"{ALL_FLIGHTS:,} flights are to be loaded, by both deployments at once")
        for web in (full, mini):
            self._unpause(web, _LOAD_DAG)
        wrong = self.finish(full, mini, _LOAD_DAG, runs=1)
        with psycopg.connect(warehouse) as conn:
            (loaded,) = conn.execute("SELECT count(*) FROM flights").fetchone() or (0,)
        if wrong or loaded != ALL_FLIGHTS:
            raise NotReadyError(f"{loaded:,} flights were loaded; {'; '.join(wrong)}")

    def ask(self, full: Full, mini: Mini, guard: JobGuard) -> None:
        """Both for each tick of January, from either end; the mini deployment, which is slower, begins.

        It is asked later for the tick at which a worker is to be killed.
        """
        self.checkpoint.order()
        for web in (full, mini):
            self._unpause(web, GUARDED_DAG)
        for tick in JANUARY.ticks:
            if tick != _STRUCK:
                mini.trigger(GUARDED_DAG, tick)
        self._until(lambda: _done_by(guard)[mini.name] or None, "the mini deployment's first tick")
        full.backfill(GUARDED_DAG, JANUARY.ticks[0], JANUARY.ticks[-1], at_once=_AT_ONCE)
        ticks, flights = len(JANUARY.ticks), JANUARY.flights
        self.say(f"both are at the {ticks} ticks of {JANUARY.name}, {flights:,} flights, from either end")

    def kill_a_worker(self, guard: JobGuard) -> Attempt:
        """The one whose job has committed its effect for the struck tick, and hasn't said so yet."""
        self._until(lambda: self.checkpoint.reached or None, f"a worker at {_STRUCK}")
        running = guard.history(JOB, run_key=_STRUCK)[0]
        container = running.node_id.partition("/")[0]
        self.killed_at = datetime.now(timezone.utc)
        self.compose.kill(container)
        self.say(f"{_STRUCK}: worker {container} is killed after its job's commit; token {running.fencing_token}")
        return running

    def finish(self, full: Full, mini: Mini, dag: str, *, runs: int) -> list[str]:
        """Wait until each has gone through its runs; what is wrong with them."""

        def states() -> dict[str, Counter[str]] | None:
            seen = {web.name: Counter(web.states(dag)) for web in (full, mini)}
            done = all(counted["success"] + counted["failed"] == runs for counted in seen.values())
            return seen if done else None

        seen = self._until(states, f"{runs} runs of {dag} in both deployments", period=1)
        return [
            f"{dag}: {counted['failed']} runs failed in {name}" for name, counted in seen.items() if counted["failed"]
        ]

    def account(self, guard: JobGuard, warehouse: str, killed: Attempt) -> list[str]:
        account = draw_up(warehouse, guard, JANUARY)
        attempts = guard.history(JOB, limit=10_000)
        outcomes = Counter(one.outcome for one in attempts)
        done_by = _done_by(guard)
        refusals = Counter(one.reason for one in guard.refusals(JOB, limit=10_000))
        self.say(f"{sum(one.guarded for one in account.ticks):,} flights on {len(account.ticks)} days")
        for title, counts in (("attempts", outcomes), ("done by", done_by), ("refused", refusals)):
            self.say(f"{title}: {', '.join(f'{name} {number}' for name, number in sorted(counts.items()))}")
        for one in attempts:
            if one.outcome == "failed":
                self.say(f"note: an attempt at {one.run_key} by {one.source} failed: {one.error}")
        wrong = list(account.faults)
        wrong += [f"the {name} deployment did nothing" for name in ("full", "mini") if not done_by[name]]
        ended = next(one for one in attempts if one.owner == killed.owner)
        if ended.outcome != "taken_over" or ended.finished_at is None:
            wrong.append(f"{_STRUCK}: the killed worker's attempt is {ended.outcome} in the ledger, not taken_over")
        else:
            lapse = (ended.finished_at - self.killed_at).total_seconds()
            done = [one for one in attempts if one.run_key == _STRUCK and one.outcome == "success"]
            self.say(
                f"{_STRUCK}: taken over {lapse:.1f} s after the kill; done by {done[0].source if done else 'nobody'}"
            )
            if lapse > _REPLACED_WITHIN:
                wrong.append(
                    f"{_STRUCK}: the killed worker was replaced after {lapse:.1f} s; limit {_REPLACED_WITHIN} s"
                )
        if not wrong:
            console.print("[bold green]Each tick ran once between the two deployments, and counts once.[/]")
        return wrong

    def _unpause(self, web: Web, dag: str) -> None:
        self._until(lambda: web.unpause(dag) or None, f"the DAG {dag} in {web.name}", period=1)

    @staticmethod
    def _until(probe: Callable[[], T | None], what: str, *, period: float = 0.1) -> T:
        return wait_until(probe, timeout=_DONE_WITHIN, what=what, period=period)


def _done_by(guard: JobGuard) -> Counter[str]:
    """How many ticks each deployment has done."""
    return Counter(one.source.deployment for one in guard.history(JOB, limit=10_000) if one.outcome == "success")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends it in order, as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main(prog_name="python -m deploy.compose")
