"""What guarding a task costs in Airflow: the whole run, and the task's own process."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import datetime

from benchmarks.figures import Figure
from deploy.embedded.stack import Stack

TIMES = 15
_DAGS = ("bench_plain", "bench_guarded")


def measure(stack: Stack) -> Iterator[Figure]:
    api = stack.airflow.api
    for dag_id in _DAGS:
        api.wait_for_dag(dag_id)
        api.unpause(dag_id)
    runs: dict[str, list[float]] = {dag_id: [] for dag_id in _DAGS}
    tasks: dict[str, list[float]] = {dag_id: [] for dag_id in _DAGS}
    for turn in range(TIMES + 2):
        for dag_id in _DAGS if turn % 2 else reversed(_DAGS):
            run_id = api.trigger_dag(dag_id)
            state = api.wait_for_run(dag_id, run_id)
            if state != "success":
                raise RuntimeError(f"run {run_id} of {dag_id} ended as {state}")
            if turn >= 2:  # the first runs after a start wait for processes to warm up
                run, task = api.dag_run(dag_id, run_id), api.task_instance(dag_id, run_id, "work")
                runs[dag_id].append(_seconds(run["queued_at"], run["end_date"]))
                tasks[dag_id].append(_seconds(task["start_date"], task["end_date"]))
    plain, guarded = (statistics.median(runs[dag_id]) for dag_id in _DAGS)
    yield Figure(
        "a run of one task, guarded over unguarded",
        guarded / plain,
        1.1,
        "x",
        f"{guarded:.2f} s over {plain:.2f} s from trigger to success, {TIMES} runs each in turn",
    )
    plain, guarded = (statistics.median(tasks[dag_id]) * 1000 for dag_id in _DAGS)
    yield Figure(
        "a guarded task takes longer by",
        guarded - plain,
        150,
        "ms",
        f"{guarded:.0f} ms over {plain:.0f} ms from the start of the task to its end",
    )


def _seconds(start: str, end: str) -> float:
    began, ended = (datetime.fromisoformat(moment.replace("Z", "+00:00")) for moment in (start, end))
    return (ended - began).total_seconds()
