"""What Airflow gives a task to execute with, as far as a guarded task asks for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def context_of(task: Any) -> Any:
    ti = SimpleNamespace(dag_id="any", task_id=task.task_id, run_id="r", map_index=-1, try_number=1, max_tries=0)
    run = SimpleNamespace(run_type="manual", run_id="r", data_interval_end=None)
    return {"ti": ti, "task": task, "dag_run": run}
