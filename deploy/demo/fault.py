"""What a fault is: something that breaks while a job is at a checkpoint, and the trace that it must leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import psutil

from airflow_exclusive.core.admission import Attempt
from airflow_exclusive.core.ports import Refusal
from deploy.demo.orders import Checkpoint
from deploy.demo.stage import Stage
from deploy.demo.ticks import GUARDED_DAG, JOB

S = TypeVar("S", bound=Stage)
T = TypeVar("T")

TASK = "roll_up"


class NoTraceError(RuntimeError):
    """A fault did not do to the job what it was meant to do, or left another trace than it must."""


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NoTraceError(otherwise)


@dataclass
class Fault(Generic[S]):
    """One thing that goes wrong, in the run of one tick by Airflow, while others want to run as well."""

    stage: S
    tick: str

    title: ClassVar[str]
    point: ClassVar[str]

    @property
    def checkpoint(self) -> Checkpoint:
        return self.stage.checkpoint(self.tick, self.point)

    def prepare(self) -> None:
        """Called before anything runs."""
        self.checkpoint.order()

    def take_turn(self) -> None:
        """Called when the fault before this one has been dealt with."""

    def strike(self, say: Callable[[str], None]) -> None:
        """Wait until the job is at the checkpoint, break something, and see that it was dealt with.

        Raises `NoTraceError` or `NotReadyError` if not.
        """
        raise NotImplementedError

    def wait_for_job(self) -> psutil.Process:
        """The job's process, waiting at the checkpoint."""
        what = f"the job at {self.point} of {self.tick}"
        job = self.until(self.checkpoint.reached_by, what, timeout=self.stage.turn_within)
        running = next((one for one in self.attempts() if one.outcome == "running"), None)
        expect(running is not None, f"{self.tick}: a job waits at the checkpoint, but the ledger has nobody running")
        assert running is not None
        expect(node_of(running) in self.stage.nodes, f"{self.tick} runs on {running.node_id}, not in Airflow")
        return job

    def until(self, probe: Callable[[], T | None], what: str, *, timeout: float | None = None) -> T:
        """The first answer of `probe`; within the time that anything may take here, if no `timeout` is given."""
        return self.stage.until(probe, what, timeout=timeout or self.stage.patience)

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


class SupervisorKilled(Fault[S]):
    title = "the supervisor of a task is killed with -9; the task lives on as an orphan"
    point = "before-transaction"

    def strike(self, say: Callable[[str], None]) -> None:
        job = self.wait_for_job()
        supervisor = job.parent()
        expect(supervisor is not None, f"{self.tick}: the task has no supervisor")
        assert supervisor is not None
        supervisor.kill()
        say(f"killed supervisor {supervisor.pid}; its task {job.pid} works on, and Airflow will start another")
        self.stage.let_go(self.tick)
        self.until(lambda: self._retry_waits() or None, "Airflow's retry, waiting for the orphan")
        expect(job.is_running(), f"{self.tick}: the orphan is gone, nobody killed it")
        say("Airflow's second try stands by while the orphan holds the lease")
        self.checkpoint.lift()
        done = self.wait_for_success()
        api = self.stage.stack.airflow.api
        task = api.wait_for_task(GUARDED_DAG, self.run_id(), TASK, timeout=self.stage.patience)
        expect(
            len(self.attempts()) == 1 and done.source.try_number == 1,
            f"{self.tick} was to be done by the orphan alone, but was by: {told(self.attempts())}",
        )
        expect(
            task["state"] == "success" and task["try_number"] > 1,
            f"{self.tick}: the retry was to be a success, but try {task['try_number']} is {task['state']}",
        )
        say("the orphan did it; the second try is a success without running again")

    def _retry_waits(self) -> bool:
        api = self.stage.stack.airflow.api
        task = api.task_instance(GUARDED_DAG, self.run_id(), TASK)
        if task["try_number"] < 2 or task["state"] != "running":
            return False
        log = api.task_log(GUARDED_DAG, self.run_id(), TASK, try_number=task["try_number"])
        return "waiting for this task instance's own attempt" in log


def keeper_of(job: psutil.Process) -> psutil.Process:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in job.children():
            with suppress(psutil.Error):
                if any("airflow_exclusive.keeper.process" in part for part in child.cmdline()):
                    return child
        time.sleep(0.05)
    raise NoTraceError(f"the job {job.pid} has no keeper")


def node_of(attempt: Attempt) -> str:
    return attempt.node_id.partition("/")[0]


def told(attempts: list[Attempt]) -> str:
    return "; ".join(f"token {one.fencing_token} {node_of(one)} {one.outcome}" for one in attempts) or "nobody"
