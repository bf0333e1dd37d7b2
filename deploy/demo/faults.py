"""The faults of `make demo`, each at a checkpoint of one tick that the second node wants as well."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import psutil
import psycopg
import redis

from airflow_exclusive.stores.redis.scripts import lock_key
from deploy.demo.fault import Fault, NoTraceError, SupervisorKilled, expect, keeper_of, node_of, told
from deploy.demo.second_node import NAME as SECOND_NODE
from deploy.demo.ticks import JANUARY, JOB
from deploy.demo.two_nodes import TwoNodes
from deploy.embedded.process import runs

_BUSY = 75
_FLUSHES = 5


class NodeLost(Fault[TwoNodes]):
    title = "a node is lost between the COMMIT of a job's effects and its finish"
    point = "after-commit"

    def strike(self, say: Callable[[str], None]) -> None:
        job = self.wait_for_job()
        first = self.attempts()[-1]
        self.stage.let_go(self.tick)
        keeper = keeper_of(job)
        job.suspend()  # or it would start another keeper, which would tell the ledger what happened here
        keeper.kill()
        job.kill()
        self.checkpoint.lift()
        say(f"killed job {job.pid} and its keeper {keeper.pid}; the flights are committed, the ledger says running")
        done = self.wait_for_success()
        taken_over = [one.fencing_token for one in self.attempts() if one.outcome == "taken_over"]
        expect(
            first.fencing_token in taken_over,
            f"{self.tick}: the lost node was to be taken over, but: {told(self.attempts())}",
        )
        expect(
            self._marked_by() == first.fencing_token < done.fencing_token,
            f"{self.tick}: the effects were to be the lost node's (token {first.fencing_token}), and the success a"
            f" later attempt's, but the mark has token {self._marked_by()} and the success {done.fencing_token}",
        )
        say(f"taken over by {node_of(done)}, which found the mark of the commit and added nothing")

    def _marked_by(self) -> int:
        with psycopg.connect(self.stage.stack.warehouse_dsn) as conn:
            row = conn.execute(
                "SELECT fencing_token FROM exclusive.scheduled_job_effect WHERE job_name = %s AND run_key = %s",
                [JOB, self.tick],
            ).fetchone()
        return int(row[0]) if row else 0


class JobFrozen(Fault[TwoNodes]):
    title = "a job is frozen with its keeper for longer than its lease, and thawed"
    point = "before-transaction"

    def strike(self, say: Callable[[str], None]) -> None:
        job = self.wait_for_job()
        frozen = self.attempts()[-1]
        keeper = keeper_of(job)
        job.suspend()
        keeper.suspend()
        try:
            self.checkpoint.lift()
            self.stage.let_go(self.tick)
            say(f"stopped job {job.pid} and its keeper {keeper.pid}; neither knows how time passes")
            done = self.wait_for_success()
            expect(
                done.fencing_token > frozen.fencing_token,
                f"{self.tick}: done with token {done.fencing_token}, which is the frozen job's or an older one",
            )
            say(
                f"taken over and done by {node_of(done)}; now the frozen job goes on, believing that it holds the lease"
            )
            job.resume()
            end = self.until(lambda: self._end_of(job), f"the end of the stale job for {self.tick}")
        finally:
            for process in (job, keeper):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        outcome = next(one.outcome for one in self.attempts() if one.owner == frozen.owner)
        expect(outcome == "taken_over", f"{self.tick}: the frozen attempt is {outcome} in the ledger, not taken_over")
        say(end)

    def _end_of(self, job: psutil.Process) -> str | None:
        """What stopped it: the ledger, or its own watch over its lease (or its supervisor), whichever comes first."""
        ended = not runs(job)
        if stale := self.refusals("stale"):
            return f"refused: {stale[-1].detail}"
        return "it was ended, as its lease was over, before the ledger had anything to refuse" if ended else None


class LockServerFlushed(Fault[TwoNodes]):
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
                expect(
                    status == _BUSY,
                    f"{self.tick}: the second node was to hear that it is busy ({_BUSY}), but its status was {status}",
                )
                if locks.get(lock_key(JOB)) != running.owner.encode():
                    break
            else:
                raise NoTraceError(f"{self.tick}: in {_FLUSHES} flushes the lock was always back before anybody asked")
        refused = [one for one in self.refusals("busy") if one.node_id.startswith(f"{SECOND_NODE}/")]
        expect(bool(refused), f"{self.tick}: the refusal of the second node isn't in the ledger")
        say("FLUSHALL: the lock was gone, the second node asked, and Postgres refused it")
        self.checkpoint.lift()
        self.stage.let_go(self.tick)
        done = self.wait_for_success()
        expect(done.owner == running.owner, f"{self.tick}: done by another than the one who ran when it was flushed")

    def _wait_for_renewal(self) -> None:
        def heartbeat() -> object:
            return self.stage.guard.status(JOB)[0].heartbeat_at

        before = heartbeat()
        self.until(lambda: True if heartbeat() != before else None, "the next renewal of the lease", timeout=20)


def scenario(stage: TwoNodes) -> list[Fault[TwoNodes]]:
    """The faults, in the order in which Airflow comes to their ticks."""
    ticks = JANUARY.ticks
    return [
        LockServerFlushed(stage, ticks[5]),
        SupervisorKilled(stage, ticks[10]),
        NodeLost(stage, ticks[16]),
        JobFrozen(stage, ticks[22]),
    ]
