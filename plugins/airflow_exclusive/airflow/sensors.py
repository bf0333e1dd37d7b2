"""Sensors on the ledger: they take nothing and record nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_exclusive.airflow import config
from airflow_exclusive.airflow.asker import default_run_key, source_of
from airflow_exclusive.airflow.compat import (
    DEFERRAL_TIMEOUT,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    Context,
)
from airflow_exclusive.airflow.early_checks import checked_partial, checked_unless_template, is_known
from airflow_exclusive.core.errors import ExclusiveError
from airflow_exclusive.core.names import check_job_name, check_run_key
from airflow_exclusive.core.settings import OnDone, check_choice

if TYPE_CHECKING:
    from airflow_exclusive.core.admission import AlreadyDone, Busy


class _JobSensor(BaseSensorOperator):
    """`deferrable`: wait in the triggerer; default `[operators] default_deferrable`."""

    template_fields = ("job_name", "run_key")
    _free = False

    def __init__(
        self,
        *,
        job_name: str,
        run_key: str | None = None,
        redis_conn_id: str | None = None,
        postgres_conn_id: str | None = None,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = checked_unless_template(check_job_name, job_name)
        self.run_key = run_key if run_key is None else checked_unless_template(check_run_key, run_key)
        self._has_run_key = run_key is not None  # what a template makes of it may be None, too
        self.redis_conn_id = redis_conn_id
        self.postgres_conn_id = postgres_conn_id
        self.deferrable = config.default_deferrable() if deferrable is None else deferrable

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """The tasks are only made when they run: what is known of their settings now is checked now."""
        cls._check_own(kwargs)
        return checked_partial(cls._check_own, kwargs, super().partial(**kwargs))

    @classmethod
    def _check_own(cls, given: Mapping[str, Any]) -> None:
        if "job_name" in given:
            checked_unless_template(check_job_name, given["job_name"])
        if given.get("run_key") is not None:
            checked_unless_template(check_run_key, given["run_key"])

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        try:
            seen = self.poke(context)
        except AirflowSkipException:
            raise
        except (Exception, AirflowTaskTimeout) as error:  # as in the base class, which would look again here
            is_final = isinstance(error, (AirflowFailException, AirflowTaskTimeout))
            if is_final or not self.silent_fail:
                if self.never_fail or (self.soft_fail and is_final):
                    raise AirflowSkipException(str(error)) from error
                raise
            self.log.exception("the first look failed")
            seen = False
        if not seen:
            from airflow_exclusive.airflow.triggers import TickTrigger

            trigger = TickTrigger(
                job_name=check_job_name(self.job_name),
                run_key=self._key(context),
                source=asdict(source_of(context)),
                postgres_conn_id=self.postgres_conn_id or config.postgres_conn_id(),
                schema=config.schema(),
                absence=config.shortest_absence(),
                free=self._free,
                poke_interval=max(self.poke_interval, 0.1),
            )
            timeout = timedelta(seconds=self.timeout)
            self.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)
        return None

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """In Airflow 2, too, who has waited too long isn't tried again, and `never_fail` counts."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            # Whichever is shorter ends the deferral.
            by_own_timeout = self.execution_timeout is None or self.execution_timeout.total_seconds() > self.timeout
            if str(error) == DEFERRAL_TIMEOUT and by_own_timeout:
                raise AirflowSensorTimeout(f"nothing to be seen within {self.timeout:g} s") from error
            raise

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:  # noqa: ARG002
        """What the trigger has seen."""
        self.log.info("%s", event["why"])
        if event["outcome"] == "error":
            raise ExclusiveError(f"can't wait in the triggerer: {event['why']}")
        if event["outcome"] == "done":
            self._finish(event["why"])

    def poke(self, context: Context) -> bool:
        from airflow_exclusive.core.admission import AlreadyDone

        seen = self._peek(context)
        if isinstance(seen, AlreadyDone):
            self._finish(str(seen))
            return True
        return self._free and seen is None

    def _finish(self, why: str) -> None:
        """The tick is done: end the task, or return where that is a success."""

    def _peek(self, context: Context) -> Busy | AlreadyDone | None:
        from airflow_exclusive.airflow.connections import open_guard

        run_key = self._key(context)
        with open_guard(self.redis_conn_id, self.postgres_conn_id) as guard:
            seen = guard.peek(check_job_name(self.job_name), run_key=run_key, source=source_of(context))
        self.log.info("%s", seen or f"{self.job_name} {run_key}: nobody runs it and it isn't done")
        return seen

    def _key(self, context: Context) -> str:
        return check_run_key(self.run_key if self._has_run_key else default_run_key(context))


class JobAdmissionSensor(_JobSensor):
    """Waits until the job would be admitted: nobody runs it and the tick isn't done.

    job_name, run_key: templated; the tick of the DAG run by default. `mode="poke"` or `"reschedule"`, or `deferrable`.
    on_done: when the tick is already done there is nothing to wait for: "skip" the task, "success" or "fail".
    """

    _free = True

    def __init__(self, *, on_done: OnDone = "skip", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("on_done", on_done, OnDone)
        self.on_done = on_done

    @classmethod
    def _check_own(cls, given: Mapping[str, Any]) -> None:
        super()._check_own(given)
        if is_known(on_done := given.get("on_done", "skip")):
            check_choice("on_done", on_done, OnDone)

    def _finish(self, why: str) -> None:
        if self.on_done == "skip":
            raise AirflowSkipException(why)
        if self.on_done == "fail":
            raise AirflowFailException(why)


class JobStatusSensor(_JobSensor):
    """Waits until a tick of a job has succeeded, in whichever deployment, by cron or by hand.

    job_name, run_key: templated; the tick of the DAG run by default. `mode="poke"` or `"reschedule"`, or `deferrable`.
    """
