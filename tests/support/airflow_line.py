"""Where one line of Airflow behaves otherwise than the other, and the tests have to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.embedded.release import AIRFLOW_2, AIRFLOW_2_WITH_TRIGGERER, AIRFLOW_3, Release, installed_release


@dataclass(frozen=True)
class Line:
    release: Release
    tested: Release
    """The same with every process that Airflow has."""
    impatient: Mapping[str, str]
    """Settings: Airflow waits five minutes until it believes that a task has died, the tests haven't that much time.

    They don't change their DAG files either: to read those again every few seconds takes a third of a processor.
    """
    patient: Mapping[str, str]
    """Settings: Airflow believes for long enough that a silent task lives."""
    ends_replaced_tasks: bool
    """Whether a try is ended that Airflow has put another one in the place of."""
    restarts_killed_tasks: bool
    """Whether it starts a cleared task again that it had to end by SIGKILL; else that is "restarting" for ever."""


LINES = (
    Line(
        AIRFLOW_2,
        tested=AIRFLOW_2_WITH_TRIGGERER,
        impatient={
            "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "12",
            # At each of these looks Airflow 2 tells its DAG processor again of a dead try that this hasn't dealt with
            # yet, and whichever try is the current one by then is failed for that: longer than the processor takes.
            "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "6",
            "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "300",
            "AIRFLOW__CORE__KILLED_TASK_CLEANUP_TIME": "5",  # seconds until SIGKILL, as with Airflow 3
        },
        patient={"AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "120"},
        ends_replaced_tasks=False,
        restarts_killed_tasks=False,
    ),
    Line(
        AIRFLOW_3,
        tested=AIRFLOW_3,
        impatient={
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "12",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        },
        patient={"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120"},
        ends_replaced_tasks=True,
        restarts_killed_tasks=True,
    ),
)

AIRFLOW = next(line for line in LINES if line.release is installed_release())
"""The one that the tests run with."""
