"""The answers to "may I run now?", and the rule that finds them in what the status table said.

match guard.admit("backup_daily", run_key="2013-01-02T00:00:00Z"):
    case Admitted(lease): ...
    case Busy(holder): ...
    case AlreadyDone(run): ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.job import Request, Source

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease


def _when(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "unknown"


@dataclass(frozen=True)
class Attempt:
    """One attempt to run a tick, as `scheduled_job_run` has it. `lease_expires_at` only while it runs."""

    job_name: str
    run_key: str
    generation: int
    attempt: int
    fencing_token: int
    owner: str
    node_id: str
    outcome: str
    started_at: datetime
    finished_at: datetime | None = None
    lease_expires_at: datetime | None = None
    error: str | None = None
    source: Source = field(default_factory=Source)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], prefix: str = "") -> Attempt | None:
        """The attempt in the columns `prefix` + name of a row; None where the join found none."""
        if row.get(prefix + "owner") is None:
            return None
        plain = {f.name: row.get(prefix + f.name) for f in fields(cls) if f.name != "source"}
        source = {f.name: row[prefix + f.name] for f in fields(Source) if row.get(prefix + f.name) is not None}
        return cls(**plain, source=Source(**source))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Claim:
    """The `running` row that this owner got. `took_over`: the attempt that it ended, if it did."""

    attempt: Attempt
    took_over: Attempt | None = None


@dataclass(frozen=True)
class Admitted:
    """You are the one: run the job, then `lease.finish()` (or use the lease as a context manager)."""

    lease: Lease
    took_over: Attempt | None = None

    def __str__(self) -> str:
        claim = self.lease.claim.attempt
        text = (
            f"admitted: {claim.job_name} {claim.run_key} attempt {claim.attempt} with token {claim.fencing_token}"
            f" until {_when(claim.lease_expires_at)}"
        )
        text += ", renewed while it runs" if self.lease.settings.renew else ", not renewed"
        if claim.generation > 1:
            text += f"; generation {claim.generation}: it was asked to run again"
        if self.took_over:
            text += f"; took over from {self.took_over.node_id}, silent since before {_when(claim.started_at)}"
        return text


@dataclass(frozen=True)
class Busy:
    """Somebody else has the job. `holder` is None while only the lock is known, or nothing, since a store is away.

    `retry_after`: seconds, infinite where nobody can say.
    `wait_left`: for how many seconds it is worth asking again; 0 where this is the last word.
    """

    job_name: str
    run_key: str
    holder: Attempt | None
    retry_after: float
    reason: str = "busy"
    wait_left: float = 0.0

    def __str__(self) -> str:
        if self.holder is None:
            lasts = "" if self.retry_after == math.inf else f" for another {self.retry_after:.1f} s"
            return f"busy: {self.job_name} is {self.reason}{lasts}"
        holder = self.holder
        return (
            f"busy: {self.job_name} runs tick {holder.run_key} on {holder.node_id} ({holder.source}) since"
            f" {_when(holder.started_at)} with token {holder.fencing_token}, its lease lasts until"
            f" {_when(holder.lease_expires_at)}"
        )


@dataclass(frozen=True)
class AlreadyDone:
    """The tick has been done. `by_own_attempt`: by an earlier try of the same task instance, not by a stranger.

    `result`: what that try left for this one.
    """

    run: Attempt
    by_own_attempt: bool = False
    result: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        run = self.run
        who = "an earlier attempt of this task instance" if self.by_own_attempt else run.node_id
        return (
            f"already done: {run.job_name} {run.run_key} by {who} ({run.source}) at {_when(run.finished_at)}"
            f" with token {run.fencing_token}"
        )


Verdict = Claim | Busy | AlreadyDone | None


def decide(request: Request, row: Mapping[str, Any]) -> Verdict:
    """Read the answer of `look.sql`. None: nobody runs and the tick isn't done, so it is there to be claimed.

    Written down as a table, first match wins:
        the running attempt is the asker's                    -> Claim
        the tick is done, and nobody asked for a repetition   -> AlreadyDone
        an attempt runs and its lease hasn't lapsed           -> Busy(holder)
        the job is held back by hold_at_least                 -> Busy()
    """
    holder = Attempt.from_row(row, "holder_")
    done = Attempt.from_row(row, "done_")
    if holder and holder.owner == request.owner and holder.outcome == "running":
        return Claim(holder, Attempt.from_row(row, "previous_"))
    if done and not row["again"]:
        return AlreadyDone(done, request.source.same_task_instance(done.source), row["done_result"])
    if holder and row["holder_alive"]:
        return Busy(request.job_name, request.run_key, holder, float(row["retry_after"]))
    if row["retry_after"] and row["retry_after"] > 0:
        return Busy(request.job_name, request.run_key, None, float(row["retry_after"]), "held back by hold_at_least")
    return None
