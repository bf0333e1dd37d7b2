"""DAGs that `tests.airflow.play` runs by `dag.test()`; conf tells the jobs that the test holds or has done."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, BaseOperator, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator

from airflow_exclusive import (
    ExclusiveBashOperator,
    ExclusivePythonOperator,
    JobAdmissionSensor,
    JobStatusSensor,
    current_lease,
    exclusive,
    exclusive_task,
)
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
from airflow_exclusive.airflow.connections import open_guard
from airflow_exclusive.core.admission import Claim
from airflow_exclusive.core.job import Request
from airflow_exclusive.core.settings import LeaseSettings

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
HELD, DONE = "{{ dag_run.conf['held'] }}", "{{ dag_run.conf['done'] }}"
TICK = "2026-01-01T00:00:00Z"


def what_it_knows(lease: Any) -> dict[str, Any]:
    lease.ensure_held()
    return {"job_name": lease.job_name, "run_key": lease.run_key, "token": lease.token}


class RemoteJob(BaseOperator):
    """Works elsewhere, without end."""

    def execute(self, context: Any) -> None:
        threading.Event().wait()

    def on_kill(self) -> None:
        with open_guard(None, None) as guard:
            (job,) = guard.status("failing.times_out")
        self.log.info("the remote job is cancelled while its attempt is %s", job.status)


with DAG("played", schedule=None, start_date=START) as played:
    bash = ExclusiveBashOperator(
        task_id="bash",
        bash_command='echo "$EXCLUSIVE_JOB $EXCLUSIVE_TOKEN {{ lease.token }} $MINE"',
        env={"MINE": "{{ lease.run_key }}"},
    )
    ExclusivePythonOperator(task_id="python", python_callable=what_it_knows)
    exclusive(EmptyOperator)(task_id="empty")
    exclusive(SQLExecuteQueryOperator)(
        task_id="sql",
        conn_id="warehouse",
        sql="SELECT {{ lease.token }}, %(job)s",
        parameters={"job": "{{ lease.job_name }}"},
    )

    @task.exclusive(job_name="played {{ params.day }}", run_key="{{ run_id }} x", params={"day": "monday"})
    def decorated(lease: Any, day: str) -> dict[str, Any]:
        assert current_lease() is lease
        return what_it_knows(lease) | {"day": day}

    @exclusive_task
    def mapped(n: int, lease: Any) -> int:
        return n * lease.token

    ExclusiveBashOperator.partial(task_id="mapped_bash", job_name="part of {{ run_id }} {{ ti.map_index }}").expand(
        bash_command=["echo $EXCLUSIVE_TOKEN", "echo $EXCLUSIVE_TOKEN"]
    )

    JobAdmissionSensor(task_id="is_free", job_name="never heard of", timeout=20, poke_interval=1)
    is_done = JobStatusSensor(task_id="is_done", job_name="played.bash", timeout=20, poke_interval=1)

    bash >> is_done
    decorated(day="{{ params.day }}")
    mapped.expand(n=[1, 10, 100])

with DAG("refused", schedule=None, start_date=START) as refused:
    for policy in ("skip", "fail"):
        ExclusiveBashOperator(task_id=f"busy_{policy}", bash_command="true", job_name=HELD, on_busy=policy)
    ExclusiveBashOperator(task_id="busy_wait", bash_command="true", job_name=HELD, on_busy="wait", wait_timeout=0.5)
    for policy in ("skip", "success", "fail"):
        ExclusiveBashOperator(
            task_id=f"done_{policy}", bash_command="exit 1", job_name=DONE, run_key=TICK, on_done=policy
        )
        JobAdmissionSensor(task_id=f"sense_{policy}", job_name=DONE, run_key=TICK, on_done=policy, timeout=5)
    JobAdmissionSensor(task_id="sense_busy", job_name=HELD, timeout=0.5, poke_interval=0.1)
    JobStatusSensor(task_id="sense_not_done", job_name=HELD, timeout=0.5, poke_interval=0.1)
    ExclusiveBashOperator(task_id="nameless", bash_command="true", job_name="{{ dag_run.conf.get('x', '') }}")
    ExclusiveBashOperator(task_id="timeless", bash_command="true", run_key="{{ dag_run.conf.get('x', '') }}")
    ExclusiveBashOperator(task_id="misspelt", bash_command="echo {{ lease.tokn }}")
    ExclusiveBashOperator(task_id="unconnected", bash_command="true", redis_conn_id="nowhere")

    @task
    def number() -> int:
        return 20130102

    @task
    def mapping() -> dict[str, str]:
        return {"day": "monday"}

    ExclusiveBashOperator(task_id="named_by_number", bash_command="true", job_name=number())
    ExclusiveBashOperator(task_id="keyed_by_mapping", bash_command="true", run_key=mapping())

with DAG("native", schedule=None, start_date=START, render_template_as_native_obj=True) as native:
    ExclusiveBashOperator(task_id="native_number", bash_command="true", job_name="{{ 20130103 }}")
    ExclusiveBashOperator(task_id="native_key", bash_command="true", run_key="{{ [1, 2] }}")

with DAG("failing", schedule=None, start_date=START) as failing:

    @exclusive_task
    def fails(lease: Any) -> None:
        raise ValueError("no rows today")

    @exclusive_task
    def skips() -> None:
        raise AirflowSkipException("nothing to do today")

    @exclusive_task(job_name="shared {{ run_id }}")
    def shares(n: int) -> int:
        return n

    fails()
    skips()
    shares.expand(n=[1, 2])
    ExclusiveBashOperator(task_id="exits", bash_command="exit 3")
    if AIRFLOW_V_3_0_PLUS:  # in 2.11 a timeout ends `dag.test` itself
        exclusive(RemoteJob)(task_id="times_out", execution_timeout=timedelta(seconds=1))


def unheard_first(operator: type[BaseOperator]) -> Any:
    """The operator, of whose first try Airflow takes it that it has failed, although it has done its work."""
    done = operator.execute

    def execute(self: Any, context: Any, **for_airflow: Any) -> Any:
        try:
            return done(self, context, **for_airflow)
        finally:
            if context["ti"].try_number == 1:
                raise ConnectionError("nobody hears how it ended")

    operator.execute = execute  # type: ignore[method-assign]
    return operator


@unheard_first
class UnheardPython(ExclusivePythonOperator): ...


@unheard_first
class UnheardShortCircuit(exclusive(ShortCircuitOperator)): ...  # type: ignore[misc]


@task
def pass_on(given: Any) -> Any:
    return given


with DAG(
    "unheard", schedule=None, start_date=START, default_args={"retries": 1, "retry_delay": timedelta(0)}
) as unheard:
    listed = UnheardPython(task_id="listed", python_callable=lambda lease: [lease.token, "and more"])
    pass_on.override(task_id="all")(listed.output)
    pass_on.override(task_id="each").expand(given=listed.output)
    several = UnheardPython(
        task_id="several", python_callable=lambda lease: {"token": lease.token}, multiple_outputs=True
    )
    pass_on.override(task_id="one_of_several")(several.output["token"])
    UnheardPython(task_id="long", python_callable=lambda: "x" * 100_000)
    stops = UnheardShortCircuit(task_id="stops", python_callable=lambda: False)
    stops >> EmptyOperator(task_id="stopped") >> EmptyOperator(task_id="later", trigger_rule="all_done")

with DAG("waiting", schedule=None, start_date=START) as waiting:

    @task
    def fall_silent(job: str, ttl: float = 3) -> None:
        """Somebody claims the job, and is never heard of again."""
        with open_guard(None, None) as guard:
            request = Request(job, "the silent one's tick", uuid4().hex, "silent node")
            assert isinstance(guard.statuses.claim(request, LeaseSettings(ttl=ttl)), Claim)

    for mode in ("worker", "reschedule", "defer"):
        left = f"left in {mode} {{{{ run_id }}}}"
        takes_over = ExclusiveBashOperator(
            task_id=f"takes_over_{mode}", bash_command="true", job_name=left, on_busy="wait", wait_mode=mode
        )
        fall_silent.override(task_id=f"fall_silent_{mode}")(left) >> takes_over
        ExclusiveBashOperator(
            task_id=f"late_{mode}",
            bash_command="exit 1",
            job_name=HELD,
            on_busy="wait",
            wait_timeout=4,
            wait_mode=mode,
            wait_interval=1,
        )
        ExclusiveBashOperator(
            task_id=f"done_{mode}", bash_command="exit 1", job_name=DONE, run_key=TICK, on_busy="wait", wait_mode=mode
        )
    mapped_job = "mapped left {{ run_id }} {{ ti.map_index }}"
    mapped_waiter = ExclusiveBashOperator.partial(
        task_id="mapped", job_name=mapped_job, on_busy="wait", wait_mode="reschedule"
    ).expand(bash_command=["true"])
    fall_silent.override(task_id="fall_silent_mapped")("mapped left {{ run_id }} 0") >> mapped_waiter
    for policy in ("skip", "success", "fail"):
        JobAdmissionSensor(
            task_id=f"sense_{policy}", job_name=DONE, run_key=TICK, on_done=policy, timeout=5, deferrable=True
        )
    JobAdmissionSensor(
        task_id="sense_soft", job_name=DONE, run_key=TICK, on_done="fail", soft_fail=True, deferrable=True
    )
    free_again = JobAdmissionSensor(
        task_id="sense_free", job_name="sensed {{ run_id }}", timeout=60, poke_interval=1, deferrable=True
    )
    fall_silent.override(task_id="fall_silent_sensed")("sensed {{ run_id }}") >> free_again
    ExclusiveBashOperator(task_id="nowhere", bash_command="true", redis_conn_id="nowhere", wait_mode="defer")

# of its own, so that little comes between the claim and the first look at it
with DAG("in_turn", schedule=None, start_date=START) as in_turn:
    lapses = "lapses {{ run_id }}"
    settings: dict[str, Any] = {"job_name": lapses, "mode": "reschedule", "timeout": 120, "poke_interval": 2}
    free = JobAdmissionSensor(task_id="sense_free", **settings)
    JobStatusSensor(task_id="sense_done", **settings)  # asks before any task that has others before it
    does_it = ExclusiveBashOperator(task_id="sensed", bash_command="true", job_name=lapses)
    fall_silent.override(task_id="fall_silent")(lapses, ttl=6) >> free >> does_it
