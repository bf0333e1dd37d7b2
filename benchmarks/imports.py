"""What naming us in a DAG file costs each time that the file is parsed."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figures import Figure

TIMES = 15

# `airflow.sdk` imports lazily, so the floor names what any DAG file uses.
_TIMED = """
import time
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, task
began = time.perf_counter()
from airflow_exclusive import ExclusiveBashOperator, ExclusivePythonOperator, exclusive, exclusive_task
from airflow_exclusive import JobAdmissionSensor, JobStatusSensor
print((time.perf_counter() - began) * 1000)
"""


def measure(environment: dict[str, str]) -> Iterator[Figure]:
    taken = []
    for _ in range(TIMES + 1):
        command = [sys.executable, "-W", "ignore", "-c", _TIMED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        taken.append(float(done.stdout.splitlines()[-1]))
    median = statistics.median(taken[1:])
    yield Figure(
        "importing the operators, beyond airflow.sdk",
        median,
        30,
        "ms",
        f"{TIMES} runs, largest {max(taken[1:]):.1f} ms",
    )
