"""`StatusStore` on PostgreSQL."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from airflow_exclusive.core.admission import Attempt, Claim, Verdict, decide
from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.job import Request, Source
from airflow_exclusive.core.ports import JobStatus, LockAnswer, Refusal
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.stores.postgres.database import Database

_PROMPTLY = 1 / 3
"""Of a lease's ttl: an answer that takes longer is asked for again, while there still is time to make use of it."""
_BRIEFLY = 2.0
"""What whoever asks can do without."""

_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
Row = TypeVar("Row", JobStatus, Refusal)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class PostgresStatuses:
    """The truth, in `database`. `now` replaces the database's clock; only tests do that."""

    def __init__(self, database: Database, *, now: datetime | None = None) -> None:
        self.database, self.now = database, now

    def claim(self, request: Request, settings: LeaseSettings) -> Verdict:
        params = {"now": self.now, **params_of(request), "ttl": settings.seconds, "renew": settings.renew}
        (row,) = self.database.run("claim", params, answer_within=_answer_within(settings.seconds))
        if (claimed := row["claimed"]) is None:
            return self.look(request)  # who has it, or did it
        *numbers, took_over = claimed
        return self.look(request) if took_over else Claim(_claimed(request, *numbers))  # who had it

    def withdraw(self, request: Request, why: str) -> None:
        params = {"now": self.now, **params_of(request), "detail": recordable(why)}
        self.database.run("withdraw", params, retry_for=_BRIEFLY, answer_within=_BRIEFLY)

    def left_behind(self, lock: LockAnswer, longest: float) -> bool:
        (row,) = self._run("left_behind", owner=lock.owner, seconds_left=lock.seconds_left, longest=longest)
        return bool(row["left_behind"])

    def look(self, request: Request) -> Verdict:
        (row,) = self._run("look", **params_of(request))
        return decide(request, row)

    def renew(self, claim: Claim, ttl: float) -> bool:
        return bool(self._run("renew", **_identity_of(claim), ttl=ttl))

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
        if outcome not in ("success", "failed"):
            raise InvalidSetting("outcome", outcome, "must be 'success' or 'failed'")
        noted = error and recordable(error)
        params = {**_identity_of(claim), "outcome": outcome, "error": noted, "result": result}
        retry_for = self.database.retry_for if ttl == math.inf else max(self.database.retry_for, ttl)
        rows = self.database.run(
            "finish",
            {"now": self.now, "hold_at_least": hold_at_least, **params},
            retry_for=retry_for,
            answer_within=_answer_within(ttl),
        )
        recorded: str | None = rows[0]["outcome"]
        return recorded

    def refuse(self, request: Request, reason: str, detail: str) -> None:
        self._run("refuse", **params_of(request), reason=reason, detail=recordable(detail))

    def confirm(self, request: Request) -> None:
        self._run("confirm", **params_of(request))

    def release(self, job_name: str, owner: str, reason: str) -> Attempt | None:
        rows = self._run("release", job_name=job_name, owner=owner, reason=recordable(reason))
        return Attempt.from_row(rows[0]) if rows else None

    def status(
        self, job_name: str | None, *, search: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Sequence[JobStatus]:
        asked = {"search": search and recordable(search), "after": after and recordable(after)}
        rows = self._run("status", job_name=job_name, limit=limit, **asked)
        return [_with_source(JobStatus, row) for row in rows]

    def history(
        self, job_name: str, run_key: str | None, limit: int, *, before: int | None = None
    ) -> Sequence[Attempt]:
        rows = self._run("history", job_name=job_name, run_key=run_key, limit=limit, before=before)
        return [attempt for row in rows if (attempt := Attempt.from_row(row))]

    def refusals(self, job_name: str, run_key: str | None, limit: int) -> Sequence[Refusal]:
        rows = self._run("refusals", job_name=job_name, run_key=run_key, limit=limit)
        return [_with_source(Refusal, row) for row in rows]

    def clock(self) -> float:
        (row,) = self.database.run("now", {"now": self.now}, retry_for=_BRIEFLY, answer_within=_BRIEFLY)
        return float(row["now"])

    def _run(self, name: str, **params: Any) -> list[dict[str, Any]]:
        return self.database.run(name, {"now": self.now, **params})


def _answer_within(ttl: float) -> float:
    return max(1.0, _PROMPTLY * ttl)


def params_of(request: Request) -> dict[str, Any]:
    return {**vars(request), **vars(request.source), "node_id": recordable(request.node_id)}


def recordable(text: str) -> str:
    """`text` as Postgres can hold it: undecodable bytes (of a file's name, say) and NUL as �."""
    return _UNSTORABLE.sub("�", text)


def _claimed(
    request: Request, fencing_token: int, generation: int, attempt: int, started_at: int, lease_expires_at: int
) -> Attempt:
    return Attempt(
        job_name=request.job_name,
        run_key=request.run_key,
        generation=generation,
        attempt=attempt,
        fencing_token=fencing_token,
        owner=request.owner,
        node_id=request.node_id,
        outcome="running",
        started_at=_EPOCH + timedelta(microseconds=started_at),
        lease_expires_at=_EPOCH + timedelta(microseconds=lease_expires_at),
        source=request.source,
    )


def _identity_of(claim: Claim) -> dict[str, Any]:
    attempt = claim.attempt
    return {"job_name": attempt.job_name, "owner": attempt.owner, "fencing_token": attempt.fencing_token}


def _with_source(kind: type[Row], row: dict[str, Any]) -> Row:
    """A row of `kind`, whose field `source` is spread over columns; they are null where there is no such attempt."""
    source = Source(**{f.name: row[f.name] for f in fields(Source) if row.get(f.name) is not None})
    return kind(**{f.name: row[f.name] for f in fields(kind) if f.name != "source"}, source=source)
