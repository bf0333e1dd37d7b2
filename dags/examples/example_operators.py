"""The ways to make a task exclusive, one DAG each; `@task.exclusive` has a file of its own."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_exclusive import ExclusiveBashOperator, ExclusivePythonOperator, Lease, exclusive, exclusive_task
from include import samples

COMMON = {"schedule": "0 3 * * *", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

BASH = """
### A command

The command learns about its lease from its environment: `$EXCLUSIVE_JOB`, `$EXCLUSIVE_RUN_KEY`, `$EXCLUSIVE_TOKEN`,
`$EXCLUSIVE_GENERATION`. If the lease is lost, the command and everything that it started are ended.

Without `job_name` the job is called `<dag_id>.<task_id>`. Name it yourself when anybody else may run it as well:
another DAG, another deployment, or cron.
"""

with DAG("example_bash", tags=["exclusive", "operator"], doc_md=BASH, **COMMON):
    ExclusiveBashOperator(
        task_id="report",
        bash_command='echo "I alone run $EXCLUSIVE_JOB for $EXCLUSIVE_RUN_KEY, with token $EXCLUSIVE_TOKEN"',
    )

PYTHON = """
### A function

A parameter called `lease` is given the lease. `lease.ensure_held()` raises when it is lost and costs next to nothing:
call it between the steps of a long job.
"""

with DAG("example_python", tags=["exclusive", "operator"], doc_md=PYTHON, **COMMON):
    ExclusivePythonOperator(task_id="work", python_callable=samples.work_in_steps, op_kwargs={"steps": 3})

ANY = """
### Any other operator

`exclusive(SomeOperator)` is that operator with admission: it takes all its own arguments and those of this package.
Here it is `SQLExecuteQueryOperator`. `{{ lease.token }}` in a template is filled in once the lease is there.
"""

with DAG("example_any_operator", tags=["exclusive", "operator"], doc_md=ANY, **COMMON):
    exclusive(SQLExecuteQueryOperator)(
        task_id="analyze",
        job_name="warehouse_analyze",
        conn_id="warehouse",
        sql="ANALYZE /* tick {{ lease.run_key }}, token {{ lease.token }} */",
    )

IMPORTED = """
### `exclusive_task`, by plain import

As `@task`, on exactly one node, wherever `import airflow_exclusive` works. What the function returns is the
task's XCom; what was decided about its admission, and why, is in the XCom `exclusive`.
"""

with DAG("example_exclusive_task", tags=["exclusive", "decorator"], doc_md=IMPORTED, **COMMON):

    @exclusive_task(job_name="example_imported")
    def work_imported(lease: Lease) -> int:
        return samples.work_in_steps(lease, steps=3)

    work_imported()
