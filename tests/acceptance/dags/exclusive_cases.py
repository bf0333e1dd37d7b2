"""DAGs of the acceptance tests. Each run is told by its conf in which folder to meet the test."""

from __future__ import annotations

import os
import resource
import signal
from datetime import datetime, timedelta, timezone
from itertools import repeat
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import Variable, dag, task

from airflow_exclusive import ExclusiveBashOperator, exclusive_task
from tests.support.diary import Diary
from tests.support.meeting import begin, meet

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
MEGABYTE = 1 << 20
TIMEOUT = timedelta(seconds=4)
FORGOTTEN = 300
"""Seconds of CPU after which a task that nobody ended doesn't trouble the machine any longer."""
QUICK: dict[str, Any] = {"lock_ttl": 10, "retries": 3, "retry_delay": timedelta(seconds=1)}
"""A lease that lapses soon, for those who wait for that, and yet leaves a keeper time to start on a busy machine."""
LONG_LEASE = timedelta(minutes=10)
"""No test waits until such a lease has lapsed: who gets the job gets it because it was given back."""


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
def guarded_with_long_lease() -> None:
    work.override(lock_ttl=LONG_LEASE)("{{ dag_run.conf['folder'] }}")


@dag(schedule=None, start_date=START, catchup=False)
def guarded_that_is_only_warned() -> None:
    work.override(on_lease_lost="warn")("{{ dag_run.conf['folder'] }}")


@dag(schedule=None, start_date=START, catchup=False)
def guarded_with_timeout() -> None:
    work.override(execution_timeout=TIMEOUT)("{{ dag_run.conf['folder'] }}")


@exclusive_task(job_name="{{ dag_run.conf['job'] }}", **QUICK)
def work_for_others(folder: str, lease: Any) -> list[str]:
    return [meet(folder, lease), "and more"]


@task
def pass_on(given: Any) -> Any:
    return given


@dag(schedule=None, start_date=START, catchup=False)
def guarded_for_others() -> None:
    made = work_for_others.override(task_id="work")("{{ dag_run.conf['folder'] }}")
    pass_on.override(task_id="all")(made)
    pass_on.override(task_id="each").expand(given=made)


@exclusive_task(job_name="{{ dag_run.conf['job'] }}", **QUICK)
def let_a_fork_work(folder: str, lease: Any) -> None:
    """The work is done by a fork that doesn't listen, and to which nothing leads but its memory."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            meet(folder, lease)
        finally:
            os._exit(0)
    os.wait()


@dag(schedule=None, start_date=START, catchup=False)
def guarded_fork_with_timeout() -> None:
    let_a_fork_work.override(task_id="work", execution_timeout=TIMEOUT)("{{ dag_run.conf['folder'] }}")


@exclusive_task(job_name="{{ dag_run.conf['job'] }}", **QUICK)
def use_all_memory_once(folder: str, lease: Any) -> str:
    if lease.token == 1:
        Diary(Path(folder), lease.token).beat()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 64 * MEGABYTE, resource.RLIM_INFINITY))
        hog = []
        while True:
            hog.append(bytearray(MEGABYTE))
    return meet(folder, lease)


@dag(schedule=None, start_date=START, catchup=False)
def guarded_without_memory() -> None:
    use_all_memory_once.override(task_id="work")("{{ dag_run.conf['folder'] }}")


@exclusive_task(job_name="{{ dag_run.conf['job'] }}", **QUICK)
def go_on_whatever_is_raised(folder: str, lease: Any) -> str:
    while True:
        try:
            return meet(folder, lease)
        except BaseException:
            continue


@dag(schedule=None, start_date=START, catchup=False)
def guarded_that_swallows_exceptions() -> None:
    go_on_whatever_is_raised.override(task_id="work")("{{ dag_run.conf['folder'] }}")


@exclusive_task(job_name="{{ dag_run.conf['job'] }}", **QUICK)
def stay_in_c_code_once(folder: str, lease: Any) -> str:
    if lease.token == 1:
        begin(folder, lease)
        hear_nothing()
    return meet(folder, lease)


def hear_nothing() -> None:
    """One C call in which no signal is heard and no other thread runs, and that only SIGKILL ends."""
    resource.setrlimit(resource.RLIMIT_CPU, (FORGOTTEN, FORGOTTEN))
    all(repeat(True))


@dag(schedule=None, start_date=START, catchup=False)
def guarded_in_c_code() -> None:
    stay_in_c_code_once.override(task_id="work")("{{ dag_run.conf['folder'] }}")


@exclusive_task(job_name="{{ dag_run.conf['job'] }}", **QUICK)
def keep_asking_airflow_once(folder: str, lease: Any) -> str:
    """Whenever a signal comes, an answer of Airflow's is being waited for."""
    if lease.token == 1:
        diary = begin(folder, lease)
        while True:
            Variable.get("nothing has this name", None)
            diary.beat()
    return meet(folder, lease)


@dag(schedule=None, start_date=START, catchup=False)
def guarded_that_asks_airflow() -> None:
    keep_asking_airflow_once.override(task_id="work")("{{ dag_run.conf['folder'] }}")


@dag(schedule=None, start_date=START, catchup=False)
def guarded_on_small_disk() -> None:
    work.override(postgres_conn_id="small_disk")("{{ dag_run.conf['folder'] }}")


# Ignores SIGTERM, as many a script does without knowing.
STUBBORN = (
    "trap '' TERM; cd {{ dag_run.conf['folder'] }}; echo $$ > {{ lease.token }}.pid;"
    " mv {{ lease.token }}.pid {{ lease.token }}.started;"
    " beat() { cut -d' ' -f1 /proc/uptime >> {{ lease.token }}.beats; };"
    " beat; while [ ! -e go ]; do sleep 0.1; beat; done"
)


@dag(schedule=None, start_date=START, catchup=False)
def guarded_bash() -> None:
    ExclusiveBashOperator(task_id="work", job_name="{{ dag_run.conf['job'] }}", bash_command=STUBBORN, **QUICK)


@dag(schedule=None, start_date=START, catchup=False)
def guarded_and_quick() -> None:
    ExclusiveBashOperator(task_id="work", job_name="{{ dag_run.conf['job'] }}", bash_command="true", **QUICK)


@dag(schedule=None, start_date=START, catchup=False)
def guarded_bash_with_long_lease() -> None:
    ExclusiveBashOperator(
        task_id="work",
        job_name="{{ dag_run.conf['job'] }}",
        bash_command=STUBBORN,
        **{**QUICK, "lock_ttl": LONG_LEASE},
    )


@dag(schedule=None, start_date=START, catchup=False)
def guarded_bash_with_timeout() -> None:
    ExclusiveBashOperator(
        task_id="work",
        job_name="{{ dag_run.conf['job'] }}",
        bash_command=STUBBORN,
        execution_timeout=TIMEOUT,
        **QUICK,
    )


guarded()
guarded_once()
guarded_with_long_lease()
guarded_that_is_only_warned()
guarded_with_timeout()
guarded_for_others()
guarded_fork_with_timeout()
guarded_without_memory()
guarded_that_swallows_exceptions()
guarded_in_c_code()
guarded_that_asks_airflow()
guarded_on_small_disk()
guarded_bash()
guarded_and_quick()
guarded_bash_with_long_lease()
guarded_bash_with_timeout()
