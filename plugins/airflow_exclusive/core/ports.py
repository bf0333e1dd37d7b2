"""What the guard needs from outside. Each verb is one atomic step, safe to send twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from airflow_exclusive.core.admission import Attempt, Claim, Verdict
from airflow_exclusive.core.job import Request, Source
from airflow_exclusive.core.settings import LeaseSettings


@dataclass(frozen=True)
class LockAnswer:
    """`mine`: the lock is the asker's (now, or since an earlier request whose reply was lost)."""

    mine: bool
    owner: str
    seconds_left: float


@dataclass(frozen=True)
class JobStatus:
    """One row of `scheduled_job_status`."""

    job_name: str
    status: str | None
    last_run_at: datetime | None
    node_id: str | None
    owner: str | None
    fencing_token: int
    run_key: str | None
    generation: int | None
    attempt: int | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    lease_expires_at: datetime | None
    hold_until: datetime | None
    """Nobody is admitted before that (`hold_at_least`); None where nothing is held back any more."""
    lapsed: bool
    """It says `running`, but its lease is over: the next one who asks takes over."""
    source: Source = field(default_factory=Source)
    """Where the attempt came from; empty where the ledger has forgotten it."""


@dataclass(frozen=True)
class Refusal:
    """An admission that was refused for good, or a write that came from a stale attempt."""

    job_name: str
    run_key: str
    reason: str
    node_id: str
    refused_at: datetime
    detail: str
    source: Source


class LockStore(Protocol):
    """The gate: Redis. Raises `StoreUnavailable`."""

    def acquire(self, job_name: str, owner: str, ttl: float, ticket: str = "") -> LockAnswer:
        """Take the lock where it is free, the asker's own, or reserved under `ticket`: then it changes its owner."""
        ...

    def release(self, job_name: str, owner: str, keep_for: float = 0.0, *, wake: bool = True) -> bool:
        """Give the lock back and wake a waiter; with `keep_for` seconds it only stops being renewed.

        wake: whether there is anything to wake for: nobody could begin when an asker that was refused leaves.
        """
        ...

    def owner(self, job_name: str) -> str | None:
        """Whose lock it is, None where it is free."""
        ...

    def wait_for_release(self, job_name: str, timeout: float) -> None:
        """Return when the job was released, at the latest after `timeout` seconds."""
        ...


class StatusStore(Protocol):
    """The truth: Postgres. Raises `StoreUnavailable` and `StoreMisconfigured`."""

    def claim(self, request: Request, settings: LeaseSettings) -> Verdict: ...

    def renew(self, claim: Claim, ttl: float) -> bool:
        """Keep the lease for another `ttl` seconds; false: the attempt isn't the runner any more."""
        ...

    def withdraw(self, request: Request, why: str) -> None:
        """End the claim that this owner may have got, unheard, and see to it that it gets none any more."""
        ...

    def left_behind(self, lock: LockAnswer, longest: float) -> bool:
        """Whether this lock is nobody's any more: its owner has ended, was refused for good, or has withdrawn; or its
        lease has lapsed, and it can't be the owner who made it last that long.

        longest: seconds for which an owner may have a lock who has no attempt (yet).
        """
        ...

    def look(self, request: Request) -> Verdict: ...

    def finish(
        self,
        claim: Claim,
        outcome: str,
        error: str | None,
        hold_at_least: float,
        *,
        result: str | None = None,
        ttl: float = math.inf,
    ) -> str | None:
        """Close the attempt; gives the outcome that the ledger has now (None: it has no such attempt).

        result: what `AlreadyDone.result` is to be for a retry that finds this success.
        ttl: of the lease, in seconds. It is tried for as long at least, and an answer that is lost is asked for again
        before the lease may lapse.
        """
        ...

    def refuse(self, request: Request, reason: str, detail: str) -> None: ...

    def confirm(self, request: Request) -> None:
        """Note that Airflow has shown the success of this tick for this try of the task instance."""
        ...

    def release(self, job_name: str, owner: str, reason: str) -> Attempt | None:
        """End this owner's attempt by hand, or what is left of its hold_at_least.

        Gives the attempt if that is how it ended: now, or by an earlier request whose reply was lost.
        """
        ...

    def status(
        self, job_name: str | None, *, search: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Sequence[JobStatus]: ...

    def history(
        self, job_name: str, run_key: str | None, limit: int, *, before: int | None = None
    ) -> Sequence[Attempt]: ...

    def refusals(self, job_name: str, run_key: str | None, limit: int) -> Sequence[Refusal]: ...

    def clock(self) -> float:
        """The one that all nodes share, as seconds since the epoch."""
        ...


class AsyncLocks(Protocol):
    """What a waiter needs of the gate."""

    async def acquire(self, job_name: str, owner: str, ttl: float) -> LockAnswer: ...

    async def release(self, job_name: str, owner: str) -> bool: ...


class AsyncStatuses(Protocol):
    """What a waiter needs of the truth."""

    async def look(self, request: Request) -> Verdict: ...

    async def left_behind(self, lock: LockAnswer, longest: float) -> bool: ...

    async def clock(self) -> float: ...


class Keeper(Protocol):
    """Renews one lease for one process, and tells whether it is still believed in."""

    @property
    def trusted_for(self) -> float:
        """Seconds for which the lease may be believed in; 0 or less once it is lost."""
        ...

    @property
    def why_lost(self) -> str: ...

    @property
    def page(self) -> str:
        """What /proc calls the memory that it shares with the process and its forks. Empty where there is none."""
        ...

    def stop(self) -> None:
        """Returns when it is certain that no renewal is under way any more."""
        ...


class KeeperFactory(Protocol):
    def __call__(self, claim: Claim, settings: LeaseSettings, sent_at: float) -> Keeper: ...
