"""The lease: what an admitted attempt holds, and the only way to end it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol

from airflow_exclusive.core.admission import Claim
from airflow_exclusive.core.environment import NAMES, Environment, Told
from airflow_exclusive.core.errors import InvalidSetting, LeaseLost
from airflow_exclusive.core.ports import Keeper
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.core.undisturbed import undisturbed

log = logging.getLogger(__name__)

_current: ContextVar[Lease | None] = ContextVar("airflow_exclusive_lease", default=None)
_environment = Environment()


def current_lease() -> Lease:
    """The lease that the code around holds. Raises `LeaseLost` where there is none."""
    lease = _current.get()
    if lease is None:
        raise LeaseLost("no lease is held here: call this inside a guarded task or `with guard.hold(…)`")
    return lease


class StepTransaction(Protocol):
    """What `with lease.transaction(conn, step=…) as tx` gives: `tx.done` says that the step was committed before."""

    @property
    def done(self) -> bool: ...

    def execute(self, text: str, params: Mapping[str, Any] | None = None) -> Any:
        """Run a statement in the transaction and give the driver's cursor or result. Parameters as `%(name)s`."""
        ...


class Identity(Protocol):
    """What a write has to say about the attempt that makes it."""

    @property
    def job_name(self) -> str: ...

    @property
    def run_key(self) -> str: ...

    @property
    def generation(self) -> int: ...

    @property
    def token(self) -> int: ...

    def ensure_held(self) -> None: ...


Effects = Callable[[Identity, Any, str], AbstractContextManager[StepTransaction]]


class Lease:
    """One attempt's right to run the job. Use it as a context manager, or call `finish()` once.

    Left by an exception the attempt is recorded as failed, otherwise as a success. An attempt that is no longer the
    runner gets `LeaseLost` instead, and nothing that it did is recorded.
    """

    def __init__(
        self,
        claim: Claim,
        settings: LeaseSettings,
        keeper: Keeper,
        *,
        effects: Effects,
        on_finish: Callable[[Lease, str, str | None, str | None], None],
        schema: str = "",
    ) -> None:
        self.claim, self.settings = claim, settings
        self._schema = schema
        self._keeper, self._effects, self._on_finish = keeper, effects, on_finish
        self._pid = os.getpid()
        self._finished = False
        self._warned = False
        self._reset: Token[Lease | None] | None = None

    @property
    def job_name(self) -> str:
        return self.claim.attempt.job_name

    @property
    def run_key(self) -> str:
        return self.claim.attempt.run_key

    @property
    def generation(self) -> int:
        """1, or more if a person asked for the tick to be run again."""
        return self.claim.attempt.generation

    @property
    def attempt(self) -> int:
        """The how-manieth attempt of this tick and generation this is, from 1."""
        return self.claim.attempt.attempt

    @property
    def token(self) -> int:
        """The fencing token: strictly larger than that of every earlier attempt of the job."""
        return self.claim.attempt.fencing_token

    @property
    def owner(self) -> str:
        return self.claim.attempt.owner

    @property
    def environment(self) -> dict[str, str]:
        """What child processes are told about the lease.

        They find it in their own, unless leases overlap in threads, when that tells them only whose they are: then give
        it to them, with `env={**os.environ, **lease.environment}`.
        """
        said = (self.job_name, self.run_key, str(self.token), str(self.generation), self.owner, self._schema)
        return dict(zip(NAMES, said, strict=True))

    @property
    def finished(self) -> bool:
        """Whether `finish` was called."""
        return self._finished

    @property
    def lost(self) -> str:
        """Why the lease is lost; empty while it is held."""
        if self._finished:
            return "the attempt is finished"
        return "" if self._keeper.trusted_for > 0 else self._keeper.why_lost

    @property
    def page(self) -> str:
        """By this the forks of the admitted process are found, see `Keeper`."""
        return self._keeper.page

    def ensure_held(self) -> None:
        """Raise `LeaseLost` if the lease is not ours any more. Costs no network round trip: call it often."""
        if not (why := self.lost):
            return
        if self.settings.on_lease_lost == "warn" and not self._finished:
            if not self._warned:
                log.warning("the lease of %s %s is lost: %s", self.job_name, self.run_key, why)
                self._warned = True
            return
        raise LeaseLost(f"{self.job_name} {self.run_key} with token {self.token}: {why}")

    def transaction(self, conn: Any, step: str = "main") -> AbstractContextManager[StepTransaction]:
        """Commit effects exactly once: the writes made in the block, their mark and the token, as one transaction.

            with lease.transaction(conn, step="totals") as tx:
                if not tx.done:
                    tx.execute("UPDATE totals SET flights = flights + %(n)s", {"n": n})

        `conn` is a psycopg 3, psycopg2 or SQLAlchemy connection (or SQLAlchemy session) to any PostgreSQL in which
        `airflow-exclusive init --effects` has been run. Where the step was committed by an earlier attempt, `tx.done`
        is true and whatever the block writes is rolled back. A stale token raises `LeaseLost` before the block runs.
        """
        self.ensure_held()
        return self._effects(self, conn, step)

    def finish(self, outcome: str = "success", error: str | None = None, result: str | None = None) -> None:
        """Close the attempt as "success" or "failed" and give the lock back. Raises `LeaseLost` if it was taken.

        result: text that a retry of the same task instance is given if it only finds this success: it is recorded
            together with that, or not at all.
        """
        if outcome not in ("success", "failed"):
            raise InvalidSetting("outcome", outcome, "must be 'success' or 'failed'")
        if self.forked:
            raise LeaseLost(f"{self.job_name} {self.run_key}: only the process that was admitted ends the attempt")
        if self._finished:
            raise LeaseLost(f"{self.job_name} {self.run_key}: the attempt is already finished")
        # Once its keeper is told to stop, nobody else would close the attempt: left here, it would have to lapse.
        with undisturbed():
            self._finished = True
            try:
                self._keeper.stop()
            finally:
                self._on_finish(self, outcome, error, result)

    @property
    def forked(self) -> bool:
        """Whether this is a child that was forked from the admitted process, whose lease it is."""
        return self._pid != os.getpid()

    def __enter__(self) -> Lease:
        around = _current.get()
        self._reset = _current.set(self)
        # By its environment the keeper, or the next attempt's, knows what this one has started.
        _environment.enter(Told(self.owner, None if around is None else around.owner, self.environment))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.forked and not self._finished:
                self._end_for(error)
        finally:
            if not self.forked:
                _environment.leave(self.owner)
            if self._reset is not None:
                with suppress(ValueError):  # left in another context than entered, by another thread say
                    _current.reset(self._reset)

    def _end_for(self, error: BaseException | None) -> None:
        """Whatever happens: an attempt that isn't finished would be renewed for as long as the process lives."""
        if error is None:
            try:
                self.finish()
            except BaseException as interrupted:  # told to end, before anything was held back
                if not self._finished:
                    self._fail(interrupted)
                raise
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with undisturbed():
            try:
                self.finish("failed", f"{type(error).__name__}: {error}"[:2000])
            except Exception as refused:  # the job's own error is the one to report
                log.warning("could not record the failure of %s %s: %s", self.job_name, self.run_key, refused)
