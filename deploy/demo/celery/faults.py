"""What happens to the workers and to the broker, each at a checkpoint of one tick."""

from __future__ import annotations

from collections.abc import Callable

from deploy.demo.celery.workers import VISIBILITY_TIMEOUT, CeleryWorkers, stopped
from deploy.demo.fault import Fault, SupervisorKilled, expect, node_of, told
from deploy.demo.orders import Checkpoint
from deploy.demo.ticks import UNGUARDED_DAG, Period
from include.flights import day_before

Say = Callable[[str], None]

_TICKS_OF_A_FAULT = 50
"""So many ticks, or nearly, go by while one that was struck is tried again."""


class WorkersFault(Fault[CeleryWorkers]):
    """Later ticks go on while the one that was struck is tried again: so none is held before its turn has come."""

    def prepare(self) -> None: ...

    def take_turn(self) -> None:
        self.tick = self.stage.ahead(self.tick)
        self.checkpoint.order()


class TaskRedelivered(WorkersFault):
    title = (
        f"a task runs for longer than the visibility_timeout of {VISIBILITY_TIMEOUT} s: the broker delivers it again"
    )
    point = "before-commit"

    def strike(self, say: Say) -> None:
        self.wait_for_job()
        first = self.attempts()[-1]
        before = self._redeliveries()
        self.until(lambda: self._redeliveries() > before or None, "a task that is delivered again")
        say(f"delivered again while {node_of(first)} runs it; Airflow's API refuses the second start")
        self.checkpoint.lift()
        self.wait_for_success()
        expect(len(self.attempts()) == 1, f"{self.tick} was to be done in one attempt, but: {told(self.attempts())}")

    def _redeliveries(self) -> int:
        return sum(self.stage.redeliveries(worker) for worker in self.stage.nodes)


class WorkerLost(WorkersFault):
    title = "a worker is killed with -9, with its tasks and their keepers, after the COMMIT of a job's effects"
    point = "after-commit"

    def strike(self, say: Say) -> None:
        job = self.wait_for_job()
        first = self.attempts()[-1]
        worker = self.stage.worker_of(job)
        expect(worker == node_of(first), f"{self.tick}: a process of {worker} works, the ledger says {node_of(first)}")
        self.stage.stack.airflow.lose(worker)
        self.checkpoint.lift()
        say(f"{worker} is gone; the flights are committed, the ledger says running")
        done = self.wait_for_success()
        outcome = next(one.outcome for one in self.attempts() if one.owner == first.owner)
        expect(outcome == "taken_over", f"{self.tick}: the lost attempt is {outcome} in the ledger, not taken_over")
        self.stage.stack.airflow.start(worker)
        say(f"Airflow tried again; done by {node_of(done)}, which found the mark of the commit. {worker} comes back")


class WorkerStopped(WorkersFault):
    title = "a worker is stopped (SIGSTOP) with its tasks and their keepers until they are replaced, and goes on"
    point = "before-transaction"

    def strike(self, say: Say) -> None:
        job = self.wait_for_job()
        frozen = self.attempts()[-1]
        worker = self.stage.worker_of(job)
        with stopped(self.stage.stack.daemons[worker]):
            self.checkpoint.lift()
            say(f"stopped {worker}, which doesn't know how time passes")
            done = self.wait_for_success()
            expect(
                done.fencing_token > frozen.fencing_token, f"{self.tick}: done by the frozen job, or by an older one"
            )
            # The job before its supervisor, which would end it as soon as Airflow tells that its time is over.
            job.resume()
            self.until(lambda: self.refusals("stale") or None, "the refusal of the stale job's result")
        say(f"done by {node_of(done)}; refused to {worker}: {self.refusals('stale')[-1].detail}")
        self.until(lambda: self.stage.take_part(worker) or None, f"{worker}, at work again")


class PoolProcessKilled(WorkersFault, SupervisorKilled[CeleryWorkers]): ...


class BrokerRestarted(WorkersFault):
    title = "the broker, which is also the lock server, is restarted while a job runs"
    point = "before-commit"

    def strike(self, say: Say) -> None:
        self.wait_for_job()
        valkey = self.stage.stack.servers.valkey
        valkey.stop()
        valkey.start()
        self.until(lambda: self.stage.take_part() or None, "all workers, back at the broker")
        say("restarted; all workers are back")
        self.checkpoint.lift()
        self.wait_for_success()
        expect(len(self.attempts()) == 1, f"{self.tick} was to be done in one attempt, but: {told(self.attempts())}")


class UnguardedSupervisorKilled(Fault[CeleryWorkers]):
    title = "the supervisor of an unguarded task is killed with -9, for contrast"
    point = "before-transaction"

    @property
    def checkpoint(self) -> Checkpoint:
        return self.stage.checkpoint(f"unguarded.{day_before(self.tick)}", self.point)

    def strike(self, say: Say) -> None:
        job = self.until(
            self.checkpoint.reached_by, f"the unguarded job of {self.tick}", timeout=self.stage.turn_within
        )
        supervisor = job.parent()
        assert supervisor is not None
        supervisor.kill()

        def another() -> int | None:
            later = self.checkpoint.reached_by()
            return later.pid if later is not None and later.pid != job.pid else None

        pid = self.until(another, f"Airflow's second try of {UNGUARDED_DAG}")
        say(f"the orphan {job.pid} works on, and so does the second try, {pid}: both will count")
        self.checkpoint.lift()


def scenario(stage: CeleryWorkers) -> list[Fault[CeleryWorkers]]:
    """The faults, over the whole of the period, as many as it has room for."""
    guarded = [TaskRedelivered, PoolProcessKilled, WorkerLost, WorkerStopped, BrokerRestarted, WorkerLost]
    guarded = guarded[: max(1, len(stage.guarded.period.ticks) // _TICKS_OF_A_FAULT)]
    faults: list[Fault[CeleryWorkers]] = [
        fault(stage, tick) for fault, tick in zip(guarded, _spread(stage.guarded.period, len(guarded)), strict=True)
    ]
    faults.insert(1, UnguardedSupervisorKilled(stage, _spread(stage.unguarded.period, 8)[0]))
    return faults


def _spread(period: Period, number: int) -> list[str]:
    step = len(period.ticks) / (number + 1)
    return [period.ticks[round(step * (turn + 1))] for turn in range(number)]
