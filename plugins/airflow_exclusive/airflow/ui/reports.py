"""What the page "Exclusive jobs" shows to a visitor and does for him, whichever Airflow serves it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

from airflow_exclusive.airflow import config, connections
from airflow_exclusive.core.admission import Attempt
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting
from airflow_exclusive.core.job import Source
from airflow_exclusive.core.names import check_job_name
from airflow_exclusive.core.ports import JobStatus, Refusal
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.statuses import PostgresStatuses

log = logging.getLogger(__name__)

Method = Literal["GET", "PUT"]
Row = TypeVar("Row", JobStatus, Attempt, Refusal)

PAGE = 100
"""Jobs, or attempts of a job, that are shown at once."""
_BATCH = 500
_MOST_BATCHES = 20
"""For a visitor who may see few of many jobs: he asks on from where one answer has ended."""
_ANSWER_WITHIN = 3.0
"""Seconds for which a web server's thread is held up by a status database that doesn't answer."""
_LONGEST_REASON = 1000


@dataclass(frozen=True)
class Visitor:
    """Who asks. `may`: whether he may read ("GET") or change ("PUT") task instances of a DAG; "": of all of them."""

    name: str
    may: Callable[[Method, str], bool]


class Refused(Exception):
    """No, with an HTTP status and a reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Reports:
    """What one visitor may see of the ledger, each row by the DAG that it came from.

    Rows that came from no DAG, or from one that is unknown here, are for those who may read all DAGs.
    task_page: the address of a task instance of this deployment in its UI.
    record: keeps for Airflow's audit log what was done to whose attempt, by whom and why.
    """

    visitor: Visitor
    task_page: Callable[[Source], str]
    record: Callable[[str, Attempt, str], None]
    _known: dict[tuple[Method, str], bool] = field(default_factory=dict)

    def jobs(self, search: str = "", after: str = "") -> dict[str, Any]:
        """A page of the status table by name. `after`, in the answer: ask with it for the rest; None: that is all."""
        shown: list[dict[str, Any]] = []
        with _statuses() as statuses:
            for _ in range(_MOST_BATCHES):
                rows = statuses.status(None, search=search.strip() or None, after=after, limit=_BATCH)
                for row in rows:
                    after = row.job_name
                    if self._may("GET", row.source):
                        shown.append(self._job(row))
                        if len(shown) == PAGE:
                            return {"jobs": shown, "after": after}
                if len(rows) < _BATCH:
                    return {"jobs": shown, "after": None}
        return {"jobs": shown, "after": after}

    def history(self, job_name: str, before: int | None = None) -> dict[str, Any]:
        """A job's row, attempts and refusals, newest first. `before`: as `after` is of `jobs`.

        hidden: how many of the attempts and refusals are for other eyes.
        """
        check_job_name(job_name)
        with _statuses() as statuses:
            rows = statuses.status(job_name)
            attempts = statuses.history(job_name, None, PAGE, before=before)
            refusals = [] if before else statuses.refusals(job_name, None, PAGE)
        jobs, seen, refused = self._readable(rows), self._readable(attempts), self._readable(refusals)
        return {
            "job": self._job(jobs[0]) if jobs else None,
            "attempts": [self._told(row) for row in seen],
            "refusals": [self._told(row) for row in refused],
            "hidden": len(attempts) + len(refusals) - len(seen) - len(refused),
            "before": attempts[-1].fencing_token if len(attempts) == PAGE else None,
        }

    def release(self, job_name: str, token: int, reason: str) -> dict[str, Any]:
        """End the attempt with this token, or the time for which it still keeps others out."""
        reason = reason.strip()
        if not 0 < len(reason) <= _LONGEST_REASON:
            raise Refused(
                400, f"the reason must say why, in at most {_LONGEST_REASON} characters: it goes into history"
            )
        check_job_name(job_name)
        with _statuses() as statuses:
            latest = next(iter(statuses.status(job_name)), None)
            if latest is None or not self._may("GET", latest.source):
                raise Refused(404, f"there is no job {job_name!r} here that you may see")
            if not self._may("PUT", latest.source):
                raise Refused(
                    403, f"you may see {job_name!r}, but not change task instances of the DAG that it is from"
                )
            attempt = next(iter(statuses.history(job_name, None, 1)), None)
        if attempt is None or not attempt.fencing_token == latest.fencing_token == token or not _keeps_out(latest):
            raise Refused(409, f"the attempt with token {token} keeps nobody out any more: look again")
        reason = f"{reason} ({self.visitor.name}, in the UI of {config.deployment()})"
        with connections.open_guard(None, None) as guard:
            ended = guard.release(job_name, reason=reason, token=token)
        if latest.status == "running" and ended is None:
            raise Refused(409, f"the attempt with token {token} has ended meanwhile: look again")
        try:
            self.record(self.visitor.name, attempt, reason)
        except Exception as error:
            log.exception("%s, token %s, is released by %s, which is in its history only", job_name, token, reason)
            raise Refused(500, f"it is released, as its history says, but not in the audit log: {error}") from error
        return {"released": token}

    def _readable(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if self._may("GET", row.source)]

    def _may(self, method: Method, source: Source) -> bool:
        asked = (method, source.dag_id)
        if asked not in self._known:
            self._known[asked] = self.visitor.may(method, source.dag_id)
        return self._known[asked]

    def _job(self, row: JobStatus) -> dict[str, Any]:
        return {**self._told(row), "may_release": _keeps_out(row) and self._may("PUT", row.source)}

    def _told(self, row: JobStatus | Attempt | Refusal) -> dict[str, Any]:
        source = row.source
        here = source.is_task_instance and source.deployment == config.deployment()
        return {**asdict(row), "from": str(source), "task_page": self.task_page(source) if here else None}


def answered(ask: Callable[[], dict[str, Any]]) -> tuple[int, str]:
    """The HTTP status and the JSON of an answer, or of why there is none: `{"error": …}`."""
    try:
        status, told = 200, ask()
    except Refused as refused:
        status, told = refused.status, {"error": str(refused)}
    except InvalidSetting as error:
        status, told = 400, {"error": str(error)}
    except ExclusiveError as error:
        status, told = 503, {"error": str(error)}
    return status, json.dumps(told, default=_as_text)


@contextmanager
def _statuses() -> Iterator[PostgresStatuses]:
    try:
        dsn = connections.status_dsn()
    except InvalidSetting as error:
        raise Refused(503, str(error)) from error
    database = Database(
        dsn, schema=config.schema(), retry_for=0.0, answer_within=_ANSWER_WITHIN, connect_timeout=int(_ANSWER_WITHIN)
    )
    try:
        yield PostgresStatuses(database)
    finally:
        database.close()


def _keeps_out(job: JobStatus) -> bool:
    return job.status == "running" or job.hold_until is not None


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
