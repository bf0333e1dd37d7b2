"""Where a task waits for its admission: in the worker, or away from it.

    worker      `guard.admit` stands by; the worker is taken meanwhile
    reschedule  the task leaves, and Airflow starts it again after a while
    defer       the task leaves, and `AdmissionTrigger` wakes it when it is its turn

Who has left asks again from the beginning when it comes back, and may have to leave once more.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow_exclusive.airflow import config
from airflow_exclusive.airflow.compat import AirflowRescheduleException, Context, TaskDeferred, first_rescheduled_at
from airflow_exclusive.core.errors import ExclusiveError, StoreUnavailable
from airflow_exclusive.core.settings import check_choice

if TYPE_CHECKING:
    from airflow_exclusive.core.admission import Busy
    from airflow_exclusive.core.job import Source
    from airflow_exclusive.core.patience import Elsewhere

log = logging.getLogger(__name__)

WaitMode = Literal["worker", "reschedule", "defer"]

DEFAULT_INTERVAL = 30.0
_GRACE = timedelta(minutes=1)
"""The trigger ends in time by itself; this much later Airflow ends it, should no triggerer be there."""


def chosen(wait_mode: WaitMode | None) -> WaitMode:
    """The mode in force. Left out: what suits the deployment."""
    if wait_mode is None:
        return suitable()
    check_choice("wait_mode", wait_mode, WaitMode)
    if wait_mode == "worker" and config.is_sequential():
        warnings.warn(
            "wait_mode='worker': under the SequentialExecutor the whole scheduler waits along; leave it out",
            UserWarning,
            stacklevel=5,
        )
    return wait_mode


def suitable(executor: str | None = None) -> WaitMode:
    """The mode for a deployment with this executor, or for this one."""
    if config.default_deferrable():
        return "defer"
    return "reschedule" if config.is_sequential(executor) else "worker"


@dataclass(frozen=True)
class Waiter:
    """One try of a task, over all its comings and goings.

    clock: seconds since the epoch, by a clock that all nodes of its way to wait share.
    began: when it asked for the first time, on that clock; None: now. `trouble`: why the trigger can't wait for it.
    """

    mode: WaitMode
    ticket: str
    clock: Callable[[], float]
    began: float | None = None
    trouble: str = ""
    asked: float = field(default_factory=time.monotonic)

    @classmethod
    def back(
        cls, mode: WaitMode, context: Context, event: Mapping[str, Any] | None, database: Callable[[], float]
    ) -> Waiter:
        """Who asks now: somebody new, or somebody who comes back, with the trigger's event or without.

        database: the clock of the status database.
        """
        if event is not None:
            trouble = event["why"] if event["outcome"] == "error" else ""
            return cls(mode, event["ticket"], database, event["began"], trouble)
        if mode == "reschedule" and (first := first_rescheduled_at(context)):
            return cls(mode, uuid.uuid4().hex, time.time, first.timestamp())  # the workers', and so is Airflow's date
        return cls(mode, uuid.uuid4().hex, database)

    @property
    def elsewhere(self) -> Elsewhere | None:
        if self.mode == "worker":
            return None
        from airflow_exclusive.core.patience import Elsewhere

        if self.began is None:
            return Elsewhere(None, self.ticket)
        now = self._now()
        return Elsewhere(0.0 if now is None else max(0.0, now - self.began), self.ticket)

    def _now(self) -> float | None:
        """None: the clock doesn't answer. That ends no wait: its trigger goes on asking."""
        try:
            return self.clock()
        except StoreUnavailable as error:
            log.info("%s; how long it has waited so far counts again when it answers", error)
            return None

    def leave(self, busy: Busy, *, interval: float, asked: Mapping[str, Any]) -> NoReturn:
        """Go, and come back when it is worth asking again. `asked`: what the trigger has to know besides."""
        if self.mode == "reschedule":
            pause = max(config.shortest_absence(), min(busy.retry_after, interval, busy.wait_left))
            raise AirflowRescheduleException(datetime.now(timezone.utc) + timedelta(seconds=pause))
        if self.trouble:
            raise ExclusiveError(f"can't wait in the triggerer: {self.trouble}")
        from airflow_exclusive.airflow.triggers import AdmissionTrigger

        began = self.began
        if began is None and (now := self._now()) is not None:
            began = now - (time.monotonic() - self.asked)
        raise TaskDeferred(
            trigger=AdmissionTrigger(ticket=self.ticket, began=began, absence=config.shortest_absence(), **asked),
            method_name="execute",
            timeout=None if busy.wait_left == math.inf else timedelta(seconds=busy.wait_left) + _GRACE,
        )


def trigger_arguments(task: Any, job_name: str, run_key: str, source: Source, wait: float) -> dict[str, Any]:
    """What `AdmissionTrigger` has to know of a guarded task's request."""
    return {
        "job_name": job_name,
        "run_key": run_key,
        "source": asdict(source),
        "wait": None if wait == math.inf else wait,
        "ttl": task.exclusive_lease_settings.seconds,
        "on_redis_down": task.exclusive_lease_settings.on_redis_down,
        "redis_conn_id": task.exclusive_setting("redis_conn_id") or config.redis_conn_id(),
        "postgres_conn_id": task.exclusive_setting("postgres_conn_id") or config.postgres_conn_id(),
        "schema": config.schema(),
    }
