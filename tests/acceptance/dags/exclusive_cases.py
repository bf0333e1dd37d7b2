"""DAGs of the acceptance tests. Each run is told by its conf in which folder to meet the test.

An attempt writes `<token>.started` when it begins to work, waits for the file `go`, and writes `<token>.finished`.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import dag

from airflow_exclusive import ExclusiveBashOperator, exclusive_task

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
QUICK: dict[str, Any] = {"lock_ttl": 6, "retries": 3, "retry_delay": timedelta(seconds=1)}


def meet(folder: str, lease: Any) -> str:
    place = Path(folder)
    note = {
        "pid": os.getpid(),
        "supervisor": os.getppid(),
        "token": lease.token,
        "generation": lease.generation,
        "run_key": lease.run_key,
        "at": time.monotonic(),
    }
    partial = place / f"{lease.token}.new"
    partial.write_text(json.dumps(note))
    partial.rename(place / f"{lease.token}.started")
    while not (place / "go").exists():
        time.sleep(0.05)
    (place / f"{lease.token}.finished").write_text(str(time.monotonic()))
    return f"done with token {lease.token}"


@exclusive_task(job_name="{{ dag_run.conf['job'] }}", **QUICK)
def work(folder: str, lease: Any) -> str:
    return meet(folder, lease)


@dag(schedule=None, start_date=START, catchup=False)
def guarded() -> None:
    work("{{ dag_run.conf['folder'] }}")


@dag(schedule=None, start_date=START, catchup=False)
def guarded_once() -> None:
    work.override(retries=0)("{{ dag_run.conf['folder'] }}")


@dag(schedule=None, start_date=START, catchup=False)
def guarded_bash() -> None:
    # Ignores SIGTERM, as many a script does without knowing.
    ExclusiveBashOperator(
        task_id="work",
        job_name="{{ dag_run.conf['job'] }}",
        bash_command="trap '' TERM; cd {{ dag_run.conf['folder'] }}; echo $$ > {{ lease.token }}.pid;"
        " mv {{ lease.token }}.pid {{ lease.token }}.started;"
        " while [ ! -e go ]; do date +%s.%N > {{ lease.token }}.alive; sleep 0.1; done",
        **QUICK,
    )


guarded()
guarded_once()
guarded_bash()
