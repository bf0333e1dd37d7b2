"""How long a lease lasts: renewed, fixed, limited, or held longer than the job."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG

from airflow_exclusive import ExclusiveBashOperator

COMMON = {"schedule": "30 2 * * *", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}

RENEWED = """
### `lock_ttl`: a renewed lease

The lease is renewed every third of `lock_ttl` by a process beside the job, so it lasts as long as the job does, and
no longer than `lock_ttl` after the node's death. Smaller is quicker takeover and more queries; 30 s is the default.
"""

with DAG("example_lock_ttl", tags=["exclusive", "policy"], doc_md=RENEWED, **COMMON):
    ExclusiveBashOperator(task_id="work", lock_ttl=timedelta(seconds=15), bash_command="sleep 20")

FIXED = """
### `renew=False`: a fixed lease

Nobody renews: others may take over after three times the expected duration (300 s where none is given), whether or not
the job has ended. So that it is gone by then, it is killed at 0.9 of that time, and asked to stop a fifth of the time
before, at most 6 s. Here: asked after 75 s, killed after 81 s, taken over after 90 s. Simple, and it needs a good
guess: too short stops a slow job, too long delays takeover.
"""

with DAG("example_fixed_lease", tags=["exclusive", "policy"], doc_md=FIXED, **COMMON):
    ExclusiveBashOperator(task_id="work", renew=False, expected_duration=timedelta(seconds=30), bash_command="sleep 5")

LIMITED = """
### `max_run_time`: a job that hangs must not keep its lease

After this time the lease isn't renewed any more and `on_lease_lost` acts, so another node may try. Airflow's
`execution_timeout` ends a task as well, but nobody keeps to it when the worker itself is in trouble.
"""

with DAG("example_max_run_time", tags=["exclusive", "policy"], doc_md=LIMITED, **COMMON):
    ExclusiveBashOperator(task_id="work", max_run_time=timedelta(hours=1), bash_command="sleep 5")

HELD = """
### `hold_at_least`: keep others out although the job is done

Nobody else is admitted, for any tick, until this time after the start has passed. For jobs that are over in a moment
but must not follow each other closely, such as calls to a service that limits its callers.
"""

with DAG("example_hold_at_least", tags=["exclusive", "policy"], doc_md=HELD, **COMMON):
    ExclusiveBashOperator(task_id="call", hold_at_least=timedelta(minutes=1), bash_command="echo calling")
