"""The gate as its askers use it: a lock that is only a first opinion, and never a reason to fail what is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from airflow_exclusive.core.errors import ExclusiveError, StoreUnavailable
from airflow_exclusive.core.job import Request
from airflow_exclusive.core.ports import LockAnswer, LockStore, StatusStore
from airflow_exclusive.core.settings import ASKERS_LOCK, LeaseSettings
from airflow_exclusive.core.undisturbed import undisturbed

log = logging.getLogger(__name__)

POLL_UNAVAILABLE = 0.5

_ASKS_FOR = 10.0
"""Seconds for which a gate that doesn't answer is asked, also by one that isn't to wait: a restart takes less."""


@dataclass
class Gate:
    """`locks` asked, and left again, by whoever asks `statuses` then."""

    locks: LockStore
    statuses: StatusStore
    clock: Callable[[], float]

    def enter(self, request: Request, settings: LeaseSettings, ticket: str, asks_until: float) -> LockAnswer | None:
        """What the gate says, asked until then at least; None where it doesn't answer and need not.

        Who asks again finds its own lock.
        """
        asks_until = max(asks_until, self.clock() + _ASKS_FOR)
        announced = ""
        try:
            while True:
                try:
                    seconds = min(settings.seconds, ASKERS_LOCK)
                    return self.locks.acquire(request.job_name, request.owner, seconds, ticket)
                except StoreUnavailable as error:
                    if settings.on_redis_down != "fail":
                        log.warning("%s; Postgres decides alone (on_redis_down=%r)", error, settings.on_redis_down)
                        return None
                    if self.clock() >= asks_until:
                        raise
                    if announced != (announced := str(error)):
                        log.info("%s; asking again", error)
                    self.locks.wait_for_release(request.job_name, POLL_UNAVAILABLE)
        except BaseException as error:  # told to stop, perhaps when the lock was set and only the reply not read
            self._leave_unheard(request, error)
            raise

    def stay(self, request: Request, settings: LeaseSettings) -> None:
        """There is a claim now: the lock is to last as long."""
        if settings.seconds <= ASKERS_LOCK:
            return
        try:
            self.locks.acquire(request.job_name, request.owner, settings.seconds)
        except ExclusiveError as error:
            log.info("the lock of %s ends before its lease, Postgres decides alone then: %s", request.job_name, error)

    def leave(
        self, job_name: str, owner: str, keep_for: float = 0.0, *, wake: bool = True, level: int = logging.WARNING
    ) -> bool:
        """Whether that is certain. What the truth has recorded stands, whatever becomes of the lock."""
        try:
            self.locks.release(job_name, owner, keep_for, wake=wake)
        except ExclusiveError as error:
            log.log(level, "could not give back the lock of %s, it ends by itself: %s", job_name, error)
            return False
        return True

    def free_left(self, job_name: str) -> None:
        """Free a lock that belongs to no running attempt."""
        try:
            owner = self.locks.owner(job_name)
        except StoreUnavailable as error:
            log.warning("can't see whether %s is locked; a lock ends by itself: %s", job_name, error)
            return
        # Who runs is read after whose lock it is, for that attempt may have begun meanwhile.
        runners = [job.owner for job in self.statuses.status(job_name) if job.status == "running"]
        if owner and owner not in runners:
            self.leave(job_name, owner)

    def _leave_unheard(self, request: Request, error: BaseException) -> None:
        """There is no claim yet, but perhaps a lock; if that can't be given back, whoever meets it learns its owner."""
        with undisturbed():
            if self.leave(request.job_name, request.owner, level=logging.INFO):
                return
            try:
                self.statuses.refuse(request, "withdrawn", unheard(error))
            except ExclusiveError as unavailable:
                log.info("could not note that %s isn't asked for any more: %s", request.job_name, unavailable)


def unheard(error: BaseException) -> str:
    return f"asked and didn't hear the answer: {type(error).__name__}: {error}"
