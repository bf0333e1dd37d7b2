"""The four faults, each at a checkpoint of one tick, and the trace that each must leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import psutil
import psycopg
import redis

from airflow_exclusive.core.admission import Attempt
from airflow_exclusive.core.ports import Refusal
from airflow_exclusive.stores.redis.scripts import lock_key
from deploy.demo.orders import Checkpoint
from deploy.demo.second_node import NAME as SECOND_NODE
from deploy.demo.stage import NODE, Stage
from deploy.demo.ticks import GUARDED_DAG, JOB, TICKS
from deploy.embedded.process import wait_until

T = TypeVar("T")

_TASK = "roll_up"
_BUSY = 75
_FLUSHES = 5


class NoTraceError(RuntimeError):
    """A fault did not do to the job what it was meant to do, or left another trace than it must."""


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NoTraceError(otherwise)


@dataclass
class Fault:
    """One thing that goes wrong, in the run of one tick by Airflow, while the second node wants that tick as well."""

    stage: Stage
    tick: str

    title: ClassVar[str]
    point: ClassVar[str]

    @property
    def checkpoint(self) -> Checkpoint:
        return self.stage.checkpoint(self.tick, self.point)

    def strike(self, say: Callable[[str], None]) -> None:
        """Wait until the job is at the checkpoint, break something, and see that it was dealt with.

        Raises `NoTraceError` or `NotReadyError` if not.
        """
        raise NotImplementedError

    def wait_for_job(self) -> psutil.Process:
        """The job's process, waiting at the checkpoint."""
        job = self.until(self.checkpoint.reached_by, f"the job at {self.point} of {self.tick}", timeout=120)
        running = next((one for one in self.attempts() if one.outcome == "running"), None)
        _expect(running is not None, f"{self.tick}: a job waits at the checkpoint, but the ledger has nobody running")
        assert running is not None
        _expect(running.node_id.startswith(f"{NODE}/"), f"{self.tick} runs on {running.node_id}, not in Airflow")
        return job

    def until(self, probe: Callable[[], T | None], what: str, *, timeout: float = 60) -> T:
        return wait_until(probe, timeout=timeout, what=what, daemons=self.stage.stack.daemons.values(), period=0.1)

    # what the ledger and Airflow say of this tick

    def attempts(self) -> list[Attempt]:
        """Oldest first."""
        return list(reversed(self.stage.guard.history(JOB, run_key=self.tick)))

    def refusals(self, reason: str) -> list[Refusal]:
        return [one for one in self.stage.guard.refusals(JOB, run_key=self.tick) if one.reason == reason]

    def success(self) -> Attempt | None:
        return next((one for one in self.attempts() if one.outcome == "success"), None)

    def wait_for_success(self) -> Attempt:
        return self.until(self.success, f"somebody's success for {self.tick}")

    def run_id(self) -> str:
        """Airflow's run of this tick."""
        return self.attempts()[0].source.run_id


class SupervisorKilled(Fault):
    title = "the supervisor of a task is killed with -9; the task lives on as an orphan"
    point = "before-transaction"

    def strike(self, say: Callable[[str], None]) -> None:
        job = self.wait_for_job()
        supervisor = job.parent()
        _expect(supervisor is not None, f"{self.tick}: the task has no supervisor")
        assert supervisor is not None
        supervisor.kill()
        say(f"killed supervisor {supervisor.pid}; its task {job.pid} works on, and Airflow will start another")
        self.stage.second.let_go(self.tick)
        self.until(lambda: self._retry_waits() or None, "Airflow's retry, waiting for the orphan", timeout=90)
        _expect(job.is_running(), f"{self.tick}: the orphan is gone, nobody killed it")
        say("Airflow's second try stands by while the orphan holds the lease")
        self.checkpoint.lift()
        done = self.wait_for_success()
        task = self.stage.stack.airflow.api.wait_for_task(GUARDED_DAG, self.run_id(), _TASK, timeout=60)
        _expect(
            len(self.attempts()) == 1 and done.source.try_number == 1,
            f"{self.tick} was to be done by the orphan alone, but was by: {_told(self.attempts())}",
        )
        _expect(
            task["state"] == "success" and task["try_number"] > 1,
            f"{self.tick}: the retry was to be a success, but try {task['try_number']} is {task['state']}",
        )
        say("the orphan did it; the second try is a success without running again")

    def _retry_waits(self) -> bool:
        api = self.stage.stack.airflow.api
        task = api.task_instance(GUARDED_DAG, self.run_id(), _TASK)
        if task["try_number"] < 2 or task["state"] != "running":
            return False
        log = api.task_log(GUARDED_DAG, self.run_id(), _TASK, try_number=task["try_number"])
        return "waiting for this task instance's own attempt" in log


class NodeLost(Fault):
    title = "a node is lost between the COMMIT of a job's effects and its finish"
    point = "after-commit"

    def strike(self, say: Callable[[str], None]) -> None:
        job = self.wait_for_job()
        first = self.attempts()[-1]
        self.stage.second.let_go(self.tick)
        keeper = _keeper_of(job)
        job.suspend()  # or it would start another keeper, which would tell the ledger what happened here
        keeper.kill()
        job.kill()
        self.checkpoint.lift()
        say(f"killed job {job.pid} and its keeper {keeper.pid}; the flights are committed, the ledger says running")
        done = self.wait_for_success()
        taken_over = [one.fencing_token for one in self.attempts() if one.outcome == "taken_over"]
        _expect(
            first.fencing_token in taken_over,
            f"{self.tick}: the lost node was to be taken over, but: {_told(self.attempts())}",
        )
        _expect(
            self._marked_by() == first.fencing_token < done.fencing_token,
            f"{self.tick}: the effects were to be the lost node's (token {first.fencing_token}), and the success a"
            f" later attempt's, but the mark has token {self._marked_by()} and the success {done.fencing_token}",
        )
        say(f"taken over by {_node(done)}, which found the mark of the commit and added nothing")

    def _marked_by(self) -> int:
        with psycopg.connect(self.stage.stack.warehouse_dsn) as conn:
            row = conn.execute(
                "SELECT fencing_token FROM exclusive.scheduled_job_effect WHERE job_name = %s AND run_key = %s",
                [JOB, self.tick],
            ).fetchone()
        return int(row[0]) if row else 0


class JobFrozen(Fault):
    title = "a job is frozen with its keeper for longer than its lease, and thawed"
    point = "before-transaction"

    def strike(self, say: Callable[[str], None]) -> None:
        job = self.wait_for_job()
        frozen = self.attempts()[-1]
        keeper = _keeper_of(job)
        job.suspend()
        keeper.suspend()
        try:
            self.checkpoint.lift()
            self.stage.second.let_go(self.tick)
            say(f"stopped job {job.pid} and its keeper {keeper.pid}; neither knows how time passes")
            done = self.wait_for_success()
            _expect(
                done.fencing_token > frozen.fencing_token,
                f"{self.tick}: done with token {done.fencing_token}, which is the frozen job's or an older one",
            )
            say(f"taken over and done by {_node(done)}; now the frozen job goes on, believing that it holds the lease")
            job.resume()
            self.until(lambda: self.refusals("stale") or None, f"the refusal of the stale job's result for {self.tick}")
        finally:
            for process in (job, keeper):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        outcome = next(one.outcome for one in self.attempts() if one.owner == frozen.owner)
        _expect(outcome == "taken_over", f"{self.tick}: the frozen attempt is {outcome} in the ledger, not taken_over")
        say(f"refused: {self.refusals('stale')[-1].detail}")


class LockServerFlushed(Fault):
    title = "the lock server is flushed while a job runs"
    point = "before-transaction"

    def strike(self, say: Callable[[str], None]) -> None:
        self.wait_for_job()
        running = self.attempts()[-1]
        with redis.Redis.from_url(self.stage.stack.redis_url) as locks:
            for _ in range(_FLUSHES):
                self._wait_for_renewal()  # the keeper puts the lock back at the next one: until then it is gone
                locks.flushall()
                status = self.stage.second.ask_once(self.tick)
                _expect(
                    status == _BUSY,
                    f"{self.tick}: the second node was to hear that it is busy ({_BUSY}), but its status was {status}",
                )
                if locks.get(lock_key(JOB)) != running.owner.encode():
                    break
            else:
                raise NoTraceError(f"{self.tick}: in {_FLUSHES} flushes the lock was always back before anybody asked")
        refused = [one for one in self.refusals("busy") if one.node_id.startswith(f"{SECOND_NODE}/")]
        _expect(bool(refused), f"{self.tick}: the refusal of the second node isn't in the ledger")
        say("FLUSHALL: the lock was gone, the second node asked, and Postgres refused it")
        self.checkpoint.lift()
        self.stage.second.let_go(self.tick)
        done = self.wait_for_success()
        _expect(done.owner == running.owner, f"{self.tick}: done by another than the one who ran when it was flushed")

    def _wait_for_renewal(self) -> None:
        def heartbeat() -> object:
            return self.stage.guard.status(JOB)[0].heartbeat_at

        before = heartbeat()
        self.until(lambda: True if heartbeat() != before else None, "the next renewal of the lease", timeout=20)


def scenario(stage: Stage) -> list[Fault]:
    """The faults, in the order in which Airflow comes to their ticks."""
    return [
        LockServerFlushed(stage, TICKS[5]),
        SupervisorKilled(stage, TICKS[10]),
        NodeLost(stage, TICKS[16]),
        JobFrozen(stage, TICKS[22]),
    ]


def _keeper_of(job: psutil.Process) -> psutil.Process:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in job.children():
            with suppress(psutil.Error):
                if any("airflow_exclusive.keeper.process" in part for part in child.cmdline()):
                    return child
        time.sleep(0.05)
    raise NoTraceError(f"the job {job.pid} has no keeper")


def _node(attempt: Attempt) -> str:
    return attempt.node_id.partition("/")[0]


def _told(attempts: list[Attempt]) -> str:
    return "; ".join(f"token {one.fencing_token} {_node(one)} {one.outcome}" for one in attempts) or "nobody"
