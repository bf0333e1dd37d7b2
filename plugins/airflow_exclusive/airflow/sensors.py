"""Sensors on the ledger: they take nothing and record nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_exclusive.airflow.asker import default_run_key, source_of
from airflow_exclusive.airflow.compat import (
    AirflowFailException,
    AirflowSkipException,
    BaseSensorOperator,
    Context,
)
from airflow_exclusive.airflow.early_checks import checked_unless_template
from airflow_exclusive.core.job import check_job_name, check_run_key
from airflow_exclusive.core.settings import OnDone, check_choice

if TYPE_CHECKING:
    from airflow_exclusive.core.admission import AlreadyDone, Busy


class _JobSensor(BaseSensorOperator):
    template_fields = ("job_name", "run_key")

    def __init__(
        self,
        *,
        job_name: str,
        run_key: str | None = None,
        redis_conn_id: str | None = None,
        postgres_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = checked_unless_template(check_job_name, job_name)
        self.run_key = run_key if run_key is None else checked_unless_template(check_run_key, run_key)
        self.redis_conn_id = redis_conn_id
        self.postgres_conn_id = postgres_conn_id

    def _peek(self, context: Context) -> Busy | AlreadyDone | None:
        from airflow_exclusive.airflow.connections import open_guard

        run_key = check_run_key(default_run_key(context) if self.run_key is None else self.run_key)
        with open_guard(self.redis_conn_id, self.postgres_conn_id) as guard:
            seen = guard.peek(check_job_name(self.job_name), run_key=run_key, source=source_of(context))
        self.log.info("%s", seen or f"{self.job_name} {run_key}: nobody runs it and it isn't done")
        return seen


class JobAdmissionSensor(_JobSensor):
    """Waits until the job would be admitted: nobody runs it and the tick isn't done.

    job_name, run_key: templated; the tick of the DAG run by default. `mode="poke"` or `"reschedule"`.
    on_done: when the tick is already done there is nothing to wait for: "skip" the task, "success" or "fail".
    """

    def __init__(self, *, on_done: OnDone = "skip", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("on_done", on_done, OnDone)
        self.on_done = on_done

    def poke(self, context: Context) -> bool:
        from airflow_exclusive.core.admission import AlreadyDone

        seen = self._peek(context)
        if not isinstance(seen, AlreadyDone):
            return seen is None
        if self.on_done == "skip":
            raise AirflowSkipException(str(seen))
        if self.on_done == "fail":
            raise AirflowFailException(str(seen))
        return True


class JobStatusSensor(_JobSensor):
    """Waits until a tick of a job has succeeded, in whichever deployment, by cron or by hand.

    job_name, run_key: templated; the tick of the DAG run by default. `mode="poke"` or `"reschedule"`.
    """

    def poke(self, context: Context) -> bool:
        from airflow_exclusive.core.admission import AlreadyDone

        return isinstance(self._peek(context), AlreadyDone)
