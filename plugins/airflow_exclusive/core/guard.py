"""The protocol, in the order in which it happens: gate (Redis), truth (Postgres), keeper, finish, release."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from airflow_exclusive.core.admission import (
    Admitted,
    AlreadyDone,
    Attempt,
    Busy,
    Claim,
    Verdict,
)
from airflow_exclusive.core.errors import (
    ExclusiveError,
    InvalidSetting,
    NotAdmitted,
    StaleWrite,
    StoreUnavailable,
)
from airflow_exclusive.core.gate import POLL_UNAVAILABLE, Gate, unheard
from airflow_exclusive.core.job import Request, Source, new_owner
from airflow_exclusive.core.lease import Effects, Identity, Lease, StepTransaction
from airflow_exclusive.core.names import check_job_name, check_run_key
from airflow_exclusive.core.patience import IN_PASSING, Elsewhere, Patience
from airflow_exclusive.core.ports import JobStatus, KeeperFactory, LockStore, Refusal, StatusStore
from airflow_exclusive.core.settings import ASKERS_LOCK, LeaseSettings, check_seconds
from airflow_exclusive.core.undisturbed import undisturbed

log = logging.getLogger(__name__)

Admission = Admitted | Busy | AlreadyDone

_TOO_LATE = 0.5
"""Of the ttl: an answer that comes later leaves a keeper too little time to renew what it confirms."""

_DEFAULT = LeaseSettings()
_NOBODY = Source()

_POLL_CONFIRMATION = 0.5
_POLL_IN_PASSING = 0.1
_POLL_AT_LEAST = 0.05
_POLL_AT_MOST = 5.0


@dataclass
class Guard:
    """Asks the stores for admission. One guard serves any number of jobs, one request after the other.

    `clock` is the node's monotonic clock, the same one for every process of the node.
    """

    locks: LockStore
    statuses: StatusStore
    keepers: KeeperFactory
    effects: Effects
    node_id: str
    clock: Callable[[], float]
    schema: str = ""

    def __post_init__(self) -> None:
        self._gate = Gate(self.locks, self.statuses, self.clock)

    def admit(
        self,
        job_name: str,
        *,
        run_key: str | None = None,
        ttl: float | None = None,
        wait: float = 0.0,
        rerun: bool = False,
        source: Source | None = None,
        settings: LeaseSettings | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> Admission:
        """Ask whether this process may run `run_key` of `job_name` now.

        run_key: the tick; left out it is a key of its own, which guards against overlap but not against repetition.
        ttl: seconds, short for `settings=LeaseSettings(ttl=…)`.
        wait: seconds to stand by while somebody else runs (`math.inf`: until the tick is done or its runner dead).
        rerun: run the tick again even if it is done, as a new generation.
        elsewhere: don't stand by here for longer than a moment; where it is worth asking again, the answer is a
            `Busy` whose `wait_left` says for how long. So it is while a store doesn't answer.

        An earlier attempt of the same Airflow task instance is never "somebody else": it is waited for in any case.
        Raises `InvalidSetting`, `StoreUnavailable`, `StoreMisconfigured`.
        """
        wait = check_seconds("wait", wait, most=math.inf) if wait != math.inf else wait
        if settings is not None and ttl is not None:
            raise InvalidSetting("ttl", ttl, "is part of settings=LeaseSettings(…) already; give one of the two")
        if settings is None:
            settings = _DEFAULT if ttl is None else LeaseSettings(ttl=ttl)
        request = self._request(job_name, run_key, source, rerun)
        asked = self.clock()
        waited = elsewhere.waited if elsewhere else None
        patience = Patience(request.source, asked - (waited or 0.0), wait, settings.seconds)
        announced = ""
        until = patience.unheard_until(has_left=waited is not None)
        while True:
            try:
                ticket, asks_until = (elsewhere.ticket, asked) if elsewhere else ("", until)
                answer = self._ask(request, settings, ticket, asks_until)
            except StoreUnavailable as error:
                left = until - self.clock()
                if left <= 0:
                    raise
                if elsewhere:
                    return Busy(job_name, request.run_key, None, math.inf, f"out of reach: {error}", left)
                if announced != (announced := str(error)):
                    log.info("%s; asking again", error)
                self.locks.wait_for_release(request.job_name, POLL_UNAVAILABLE)
                answer = None
            if answer is None:
                request = replace(request, owner=new_owner())
                continue
            if isinstance(answer, AlreadyDone) and patience.awaits_confirmation(answer, self.clock()):
                self.locks.wait_for_release(request.job_name, _POLL_CONFIRMATION)
                continue
            if isinstance(answer, Busy):
                now = self.clock()
                until = patience.until(answer, now)
                left = until - now
                if left > 0:
                    if elsewhere and patience.leaves(answer, asked, now):
                        return replace(answer, wait_left=left)
                    if announced != (announced := str(answer.holder and answer.holder.owner)):
                        log.info("%s; waiting%s", answer, patience.reason(answer))
                    self._stand_by(answer, left)
                    continue
            if not isinstance(answer, Admitted):
                self.statuses.refuse(request, "busy" if isinstance(answer, Busy) else "done", str(answer))
            return answer

    @contextmanager
    def hold(
        self,
        job_name: str,
        *,
        run_key: str | None = None,
        ttl: float | None = None,
        wait: float = 0.0,
        rerun: bool = False,
        settings: LeaseSettings | None = None,
    ) -> Iterator[Lease]:
        """`admit`, and the lease finished at the end of the block. Raises `NotAdmitted` where the answer is no.

        >>> with guard.hold("backup_daily", run_key="2013-01-02T00:00:00Z", ttl=30) as lease:   # doctest: +SKIP
        ...     backup(lease.token)
        """
        admission = self.admit(job_name, run_key=run_key, ttl=ttl, wait=wait, rerun=rerun, settings=settings)
        if not isinstance(admission, Admitted):
            raise NotAdmitted(admission)
        with admission.lease as lease:
            yield lease

    def peek(
        self, job_name: str, *, run_key: str | None = None, source: Source | None = None
    ) -> Busy | AlreadyDone | None:
        """What `admit` would answer now, without taking or recording anything; None: it would admit."""
        verdict = self.statuses.look(self._request(job_name, run_key, source, rerun=False))
        return None if isinstance(verdict, Claim) else verdict

    def confirm(self, job_name: str, run_key: str, source: Source) -> None:
        """Airflow has shown this tick as done for this try: if a person clears it from now on, it is to run again."""
        self.statuses.confirm(self._request(job_name, run_key, source, rerun=False))

    def release(self, job_name: str, *, reason: str, token: int | None = None) -> Attempt | None:
        """End the running attempt by hand and free its lock; the runner is stopped when its keeper asks next.

        token: end only the attempt that has this token, and leave alone whoever has come after it.
        Where nobody runs, what keeps the next one out is ended: `hold_at_least`, or a lock that was left behind.
        Gives the attempt that was ended, None where nobody ran. Whoever is admitted meanwhile keeps attempt and lock.
        """
        latest = next(iter(self.statuses.status(check_job_name(job_name))), None)
        if token is not None and (latest is None or latest.fencing_token != token):
            return None
        if latest is None or latest.owner is None:
            self._gate.free_left(job_name)
            return None
        ended = self.statuses.release(job_name, latest.owner, reason)
        if latest.status != "running":
            self._gate.free_left(job_name)
            return None
        self._gate.leave(job_name, latest.owner)
        return ended

    def status(self, job_name: str | None = None) -> Sequence[JobStatus]:
        """The job's row of the status table, or all rows by name."""
        return self.statuses.status(None if job_name is None else check_job_name(job_name))

    def history(
        self, job_name: str, *, run_key: str | None = None, limit: int = 50, before: int | None = None
    ) -> Sequence[Attempt]:
        """The job's attempts, newest first; only those before the token `before`, if it is given."""
        return self.statuses.history(*_asked_about(job_name, run_key), limit, before=before)

    def refusals(self, job_name: str, *, run_key: str | None = None, limit: int = 50) -> Sequence[Refusal]:
        """Who was told no, and why, newest first."""
        return self.statuses.refusals(*_asked_about(job_name, run_key), limit)

    def _request(self, job_name: str, run_key: str | None, source: Source | None, rerun: bool) -> Request:
        owner = new_owner()
        key = f"manual__{owner}" if run_key is None else check_run_key(run_key)
        return Request(check_job_name(job_name), key, owner, self.node_id, source or _NOBODY, rerun)

    def _ask(self, request: Request, settings: LeaseSettings, ticket: str, asks_until: float) -> Admission | None:
        """One round of gate and truth. None: this owner's claim lapsed before its reply came, ask as a new one."""
        lock = self._gate.enter(request, settings, ticket, asks_until)
        if lock and not lock.mine:
            seen = self.statuses.look(request)
            if isinstance(seen, (Busy, AlreadyDone)):
                return seen
            if self.statuses.left_behind(lock, max(settings.seconds, ASKERS_LOCK)):
                self._gate.leave(request.job_name, lock.owner)
            return Busy(request.job_name, request.run_key, None, lock.seconds_left, IN_PASSING)
        return self._claim(request, settings, locked=lock is not None)

    def _claim(self, request: Request, settings: LeaseSettings, *, locked: bool) -> Admission | None:
        sent_at = self.clock()
        verdict: Verdict = None
        try:
            verdict = self.statuses.claim(request, settings)
            if not isinstance(verdict, Claim):
                # Nobody else is admitted by this: a waiter that woke for it, even the asker itself, would ask in vain.
                self._gate.leave(request.job_name, request.owner, wake=False)
                return verdict
            if locked:
                self._gate.stay(request, settings)
            confirmed = sent_at
            if self._is_late(confirmed, settings):  # the last of many requests, perhaps: Postgres may be quick again
                confirmed = self.clock()
                if not self.statuses.renew(verdict, settings.seconds):
                    self._gate.leave(request.job_name, request.owner, wake=False)
                    return None
            if self._is_late(confirmed, settings):
                raise StoreUnavailable(
                    f"Postgres took {self.clock() - confirmed:.1f} s to answer, too much of a lease of"
                    f" {settings.seconds:g} s: make it faster or lock_ttl longer"
                )
            keeper = self.keepers(verdict, settings, confirmed)
        except BaseException as error:
            if isinstance(verdict, Claim):
                self._give_back(verdict, error)
            else:
                self._withdraw(request, error)
            raise
        finish = partial(self._finish, request, sent_at)
        lease = Lease(
            verdict, settings, keeper, effects=partial(self._transaction, request), on_finish=finish, schema=self.schema
        )
        return Admitted(lease, verdict.took_over)

    def _is_late(self, sent_at: float, settings: LeaseSettings) -> bool:
        return self.clock() - sent_at > _TOO_LATE * settings.seconds

    def _withdraw(self, request: Request, error: BaseException) -> None:
        """Nobody knows what became of this owner's last request, or will become of it: it is to keep nobody out."""
        no_claim = isinstance(error, ExclusiveError) and not isinstance(error, StoreUnavailable)
        with undisturbed():
            if not no_claim:
                try:
                    self.statuses.withdraw(request, unheard(error))
                except ExclusiveError as unavailable:
                    log.info("what %s may have got lapses by itself: %s", request.job_name, unavailable)
            self._gate.leave(request.job_name, request.owner)

    def _give_back(self, claim: Claim, error: BaseException) -> None:
        """Nobody will renew this claim: rather end it at once than let it lapse."""
        attempt = claim.attempt
        with undisturbed():
            try:
                self.statuses.finish(claim, "failed", f"it could not begin: {error}", 0.0)
            except ExclusiveError as unavailable:
                log.warning("could not give back %s, it lapses by itself: %s", attempt.job_name, unavailable)
            self._gate.leave(attempt.job_name, attempt.owner)

    @contextmanager
    def _transaction(self, request: Request, lease: Identity, conn: Any, step: str) -> Iterator[StepTransaction]:
        try:
            with self.effects(lease, conn, step) as tx:
                yield tx
        except StaleWrite as refused:
            self._record_stale(request, str(refused))
            raise

    def _finish(
        self, request: Request, started: float, lease: Lease, outcome: str, error: str | None, result: str | None
    ) -> None:
        # A failed attempt holds nobody up: least of all its own retry.
        hold = lease.settings.hold_at_least if outcome == "success" else 0.0
        try:
            recorded = self.statuses.finish(
                lease.claim, outcome, error, hold, result=result, ttl=lease.settings.seconds
            )
        finally:
            self._gate.leave(lease.job_name, lease.owner, max(0.0, started + hold - self.clock()))
        if recorded != outcome:
            why = f"the attempt with token {lease.token} had already ended as {recorded or 'nothing known'}"
            self._record_stale(request, f"its result ({outcome}) is refused: {why}")
            raise StaleWrite(f"{lease.job_name} {lease.run_key}: its result ({outcome}) is refused: {why}")

    def _record_stale(self, request: Request, detail: str) -> None:
        """That it was refused is what the job has to hear, recorded or not."""
        try:
            self.statuses.refuse(request, "stale", detail)
        except ExclusiveError as error:
            log.warning("could not record a stale write of %s %s: %s", request.job_name, request.run_key, error)

    def _stand_by(self, busy: Busy, left: float) -> None:
        longest = _POLL_IN_PASSING if busy.reason == IN_PASSING else _POLL_AT_MOST
        pause = min(max(busy.retry_after, _POLL_AT_LEAST), longest, left)
        self.locks.wait_for_release(busy.job_name, pause)


def _asked_about(job_name: str, run_key: str | None) -> tuple[str, str | None]:
    return check_job_name(job_name), None if run_key is None else check_run_key(run_key)
