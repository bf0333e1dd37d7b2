"""What an operator does under its lease, and how all of it ends before another attempt may begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_exclusive.airflow.beside import done_beside
from airflow_exclusive.airflow.compat import (
    ASKS_A_PERSON,
    SKIPS_WHAT_FOLLOWS,
    TRIGGERS_ANOTHER_RUN,
    AirflowSkipException,
    AirflowTaskTimeout,
    Context,
    TaskDeferred,
    TaskStopped,
)
from airflow_exclusive.airflow.results import left_behind, skips_left_behind
from airflow_exclusive.core.errors import ExclusiveError

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease

INSTEAD_OF_DEFERRING = "let it wait unguarded, and guard the task that follows it"
INSTEAD_OF_TRIGGERING = "give that run a trigger_run_id made of the tick instead"
SKIPPED = "skipped itself: "
"""What the ledger says beside the success of a job that decided to skip."""
_CHILDREN_END_WITHIN = 3.0
_ON_KILL_WITHIN = 10.0
"""Seconds for which the operator's own `on_kill` is waited for, when the interrupted code may stand in its way."""


class Work:
    """One call of a guarded operator's `execute`: first it asks, then it may do the operator's own work.

    execute, on_kill: the operator's own.
    """

    over = False
    """Whether the call of `execute` has ended."""
    lease: Lease | None = None
    lost = ""
    """Why the lease was lost, when the task was stopped for that."""

    def __init__(self, task: Any, execute: Callable[..., Any], on_kill: Callable[[], None]) -> None:
        self._task, self._execute, self._on_kill = task, execute, on_kill
        self._since = float("inf")
        self._begun = self._cancelled = self._stopping = False

    @contextmanager
    def under(self, lease: Lease) -> Iterator[None]:
        from airflow_exclusive.keeper.started import began

        self.lease, self._since = lease, began()
        try:
            with lease:
                yield
        finally:
            self.lease = None

    def do(self, lease: Lease, context: Context, for_airflow: dict[str, Any]) -> Any:
        """Call the operator's own `execute`, and record what becomes of it."""
        self._begun = True
        operator = type(self._task).__name__
        try:
            result = self._execute(context, **for_airflow)
        except AirflowSkipException as skipped:
            # The job itself decided that this tick has nothing to do: that is an answer, not a failure.
            lease.finish("success", f"{SKIPPED}{skipped}")
            raise
        except SKIPS_WHAT_FOLLOWS as skipping:
            lease.finish(result=skips_left_behind(skipping.tasks))
            raise
        except TRIGGERS_ANOTHER_RUN as trigger:
            raise ExclusiveError(
                f"{operator} has Airflow trigger a run after the end of the task and its lease,"
                f" and can't be exclusive: {INSTEAD_OF_TRIGGERING}"
            ) from trigger
        except ASKS_A_PERSON as asking:
            raise ExclusiveError(
                f"{operator} leaves its worker until a person has answered, and can't be exclusive:"
                " let it ask unguarded, and guard the task that follows it"
            ) from asking
        except TaskDeferred as deferral:
            cure = "set deferrable=False" if hasattr(self._task, "deferrable") else INSTEAD_OF_DEFERRING
            raise ExclusiveError(f"{operator} defers, which an exclusive task can't do yet: {cure}") from deferral
        except AirflowTaskTimeout:
            # Airflow calls `on_kill` only after this: too late, for the next attempt may begin as soon as the lease is
            # given back.
            self._cancel(lease)
            raise
        except BaseException:
            self._end_started(lease)
            raise
        if not lease.finished:
            lease.finish(result=left_behind(self._task, context, result))
        self._begun = False
        return result

    def stop(self) -> None:
        """SIGTERM: from the keeper when the lease is lost, or from Airflow. Either way the work really ends.

        Airflow's own handler returns to `execute`, which would go on; only raising here ends it. Nothing here may ask
        Airflow for anything, or log: the interrupted code may be in the middle of it, and have what that waits for.
        """
        # What a task has begun itself and has not ended: else what is under that name may be another attempt's.
        # Nor has a fork any say in it: a pool ends its workers by SIGTERM.
        lease = self.lease
        forked = lease is not None and lease.forked
        cancel = self._on_kill if self._begun and not self._cancelled and not forked else None
        if self.over:
            if cancel is not None:
                cancel()
            return
        if self._stopping:  # whoever ends a container tells the task as well as its supervisor, which tells it again
            return
        self._stopping = True
        try:
            failed = done_beside(cancel, within=_ON_KILL_WITHIN) if cancel is not None else None
            if lease is not None:
                self._end_started(lease)
        finally:
            self._stopping = False
        if lease is not None and not lease.finished:
            self.lost = lease.lost
        raise TaskStopped(f"stopped: {self.lost}" if self.lost else "stopped by SIGTERM") from failed

    def _cancel(self, lease: Lease) -> None:
        """End this attempt's work by the operator's own means, e.g. a remote job, and then what it started here."""
        try:
            self._on_kill()
            self._cancelled = True
        except Exception:  # the timeout is the error to report; Airflow tries once more
            self._task.log.exception("on_kill failed, what it was to cancel may go on")
        finally:
            self._end_started(lease)

    def _end_started(self, lease: Lease) -> None:
        """End what this attempt started: nothing of it may go on beside the next one."""
        from airflow_exclusive.keeper.started import end_started

        if not lease.forked:  # a fork that fails, or is told to end, has no say in what its parent goes on with
            end_started(lease.owner, page=lease.page, since=self._since, within=_CHILDREN_END_WITHIN)
