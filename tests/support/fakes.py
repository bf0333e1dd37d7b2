"""The guard's ports in memory: what was asked of them, in order, and answers that a test lays down."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_exclusive.core.admission import AlreadyDone, Attempt, Busy, Claim, Verdict
from airflow_exclusive.core.guard import Guard
from airflow_exclusive.core.job import Request, Source
from airflow_exclusive.core.lease import Identity, StepTransaction
from airflow_exclusive.core.ports import JobStatus, LockAnswer, Refusal
from airflow_exclusive.core.settings import LeaseSettings

NOON = datetime(2013, 1, 2, 12, tzinfo=timezone.utc)
TICK = "2013-01-02T00:00:00Z"


def attempt(**changes: Any) -> Attempt:
    """A running attempt of somebody else."""
    plain = Attempt(
        job_name="backup_daily",
        run_key=TICK,
        generation=1,
        attempt=1,
        fencing_token=1,
        owner="somebody",
        node_id="node-b",
        outcome="running",
        started_at=NOON,
        lease_expires_at=NOON + timedelta(seconds=30),
    )
    return replace(plain, **changes)


def claim_of(request: Request, **changes: Any) -> Claim:
    mine = attempt(job_name=request.job_name, run_key=request.run_key, owner=request.owner, node_id=request.node_id)
    return Claim(replace(mine, **changes))


def busy(holder: Attempt | None = None, retry_after: float = 10.0) -> Busy:
    return Busy("backup_daily", TICK, holder or attempt(), retry_after)


def done(**changes: Any) -> AlreadyDone:
    return AlreadyDone(attempt(outcome="success", finished_at=NOON, lease_expires_at=None, **changes))


def row(status: str = "running", owner: str = "somebody") -> JobStatus:
    """What the status table has of a job whose latest attempt is the owner's."""
    return JobStatus("backup_daily", status, None, "node-b", owner, 1, TICK, 1, 1, NOON, NOON, None, None, lapsed=False)


CLAIMED = "claimed"
"""As an answer of the status store: a claim for whoever asked."""


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Calls:
    """One diary for all fakes of a guard, so that the order between them shows."""

    names: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> None:
        self.names.append(name)


@dataclass
class FakeLocks:
    """One lock. `down`: raise this instead of answering. `holder`: who has it, until so many waits later."""

    calls: Calls
    clock: Clock
    holder: str | None = None
    down: Exception | None = None
    back_at: float = math.inf
    kept_for: float = 0.0
    freed_by_wait: int | None = None
    asked_for: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    woke: list[bool] = field(default_factory=list)

    def acquire(self, job_name: str, owner: str, ttl: float, ticket: str = "") -> LockAnswer:
        self._say("acquire")
        self.asked_for.append(ttl)
        if self.holder in (None, owner, ticket or None):
            self.holder = owner
            return LockAnswer(True, owner, ttl)
        assert self.holder is not None
        return LockAnswer(False, self.holder, 7.0)

    def release(self, job_name: str, owner: str, keep_for: float = 0.0, *, wake: bool = True) -> bool:
        self._say("unlock")
        self.woke.append(wake)
        mine = self.holder == owner
        if mine:
            self.holder, self.kept_for = (owner if keep_for else None), keep_for
        return mine

    def owner(self, job_name: str) -> str | None:
        self._say("owner")
        return self.holder

    def wait_for_release(self, job_name: str, timeout: float) -> None:
        self.calls("wait")
        self.waits.append(timeout)
        self.clock.now += timeout
        if len(self.waits) == self.freed_by_wait:
            self.holder = None

    def _say(self, name: str) -> None:
        self.calls(name)
        if self.down and self.clock.now < self.back_at:
            raise self.down


Answer = Busy | AlreadyDone | Claim | BaseException | str | None


@dataclass
class FakeStatuses:
    """Gives the answers in order; the last one for ever. `recorded`: what the ledger has after `finish`.

    `takes`, `renewing_takes`: seconds of a claim and of a renewal. `renewed`: answers to renewals, then always true.
    `rows`: what the status table has of the job; the last one for ever. `runs`: its attempts, newest first.
    """

    calls: Calls
    clock: Clock
    answers: list[Answer]
    looks: list[Answer] = field(default_factory=list)
    recorded: str | Exception | None = "as asked"
    takes: float = 0.0
    renewing_takes: float = 0.0
    renewed: list[bool] = field(default_factory=list)
    rows: list[JobStatus] = field(default_factory=list)
    runs: list[Attempt] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    finished: list[tuple[str, str | None, float]] = field(default_factory=list)
    ttl: float = 0.0
    withdrawn: list[tuple[str, str]] = field(default_factory=list)
    withdrawing: Exception | None = None
    results: list[str | None] = field(default_factory=list)

    def claim(self, request: Request, settings: LeaseSettings) -> Verdict:
        self.calls("claim")
        self.clock.now += self.takes
        self.requests.append(request)
        return self._next(self.answers, request)

    def renew(self, claim: Claim, ttl: float) -> bool:
        self.calls("renew")
        self.clock.now += self.renewing_takes
        return self.renewed.pop(0) if self.renewed else True

    def withdraw(self, request: Request, why: str) -> None:
        self.calls("withdraw")
        if self.withdrawing:
            raise self.withdrawing
        self.withdrawn.append((request.owner, why))

    def left_behind(self, lock: LockAnswer, longest: float) -> bool:
        return any(run.owner == lock.owner and run.outcome != "running" for run in self.runs)

    def look(self, request: Request) -> Verdict:
        self.calls("look")
        return self._next(self.looks, request)

    def finish(
        self,
        claim: Claim,
        outcome: str,
        error: str | None,
        hold_at_least: float,
        *,
        result: str | None = None,
        ttl: float = 0.0,
    ) -> str | None:
        self.calls("finish")
        self.finished.append((outcome, error, hold_at_least))
        self.results.append(result)
        self.ttl = ttl
        if isinstance(self.recorded, Exception):
            raise self.recorded
        return outcome if self.recorded == "as asked" else self.recorded

    def refuse(self, request: Request, reason: str, detail: str) -> None:
        self.calls("refuse")
        self.refused.append((reason, detail))

    def confirm(self, request: Request) -> None:
        self.calls("confirm")

    def release(self, job_name: str, owner: str, reason: str) -> Attempt | None:
        self.calls("release")
        return attempt(job_name=job_name, owner=owner, outcome="released", error=reason)

    def status(self, job_name: str | None, **_: Any) -> Sequence[JobStatus]:
        self.calls("status")
        return [self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]] if self.rows else []

    def history(self, job_name: str, run_key: str | None, limit: int, **_: Any) -> Sequence[Attempt]:
        return self.runs[:limit]

    def refusals(self, job_name: str, run_key: str | None, limit: int) -> Sequence[Refusal]:
        return []

    @staticmethod
    def _next(answers: list[Answer], request: Request) -> Verdict:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        if answer == CLAIMED:
            return claim_of(request)
        assert not isinstance(answer, str)
        return answer


@dataclass
class FakeKeeper:
    calls: Calls
    trusted_for: float = 20.0
    why_lost: str = "taken over"
    page: str = ""
    sent_at: float | None = None

    def stop(self) -> None:
        self.calls("keeper stops")


@dataclass
class Transaction:
    done: bool = False

    def execute(self, text: str, params: Mapping[str, Any] | None = None) -> Any:
        raise AssertionError("no test of the guard writes anything")


@dataclass
class World:
    """A guard with all that surrounds it."""

    guard: Guard
    calls: Calls
    clock: Clock
    locks: FakeLocks
    statuses: FakeStatuses
    keeper: FakeKeeper
    effects: list[Exception] = field(default_factory=list)
    keeper_fails: Exception | None = None


def world(*answers: Answer, looks: Sequence[Answer] = (None,), node_id: str = "node-a") -> World:
    calls, clock = Calls(), Clock()
    locks, keeper = FakeLocks(calls, clock), FakeKeeper(calls)
    statuses = FakeStatuses(calls, clock, list(answers or (CLAIMED,)), list(looks))

    def start_keeper(claim: Claim, settings: LeaseSettings, sent_at: float) -> FakeKeeper:
        calls("keeper starts")
        if made.keeper_fails:
            raise made.keeper_fails
        keeper.sent_at = sent_at
        return keeper

    @contextmanager
    def effects(lease: Identity, conn: Any, step: str) -> Iterator[StepTransaction]:
        for error in made.effects:
            raise error
        yield Transaction()

    guard = Guard(locks, statuses, start_keeper, effects, node_id, clock)
    made = World(guard, calls, clock, locks, statuses, keeper)
    return made


TASK = Source(deployment="full", dag_id="flights", run_id="scheduled__1", task_id="load", try_number=1)
