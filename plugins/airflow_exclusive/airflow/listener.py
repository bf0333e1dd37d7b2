"""What Airflow tells us about itself, above all which successes it has shown, for the ledger.

Only a success that Airflow showed can be cleared by a person, and only then is the tick to run again. An orphan's
success, which Airflow never saw, must not be repeated when its task instance is tried again or cleared.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field

from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS, hookimpl, is_shown_as_success
from airflow_exclusive.core.job import Source
from airflow_exclusive.guard import JobGuard

log = logging.getLogger(__name__)


_supervisor: int | None = None


@dataclass
class _Success:
    guard: JobGuard
    job_name: str
    run_key: str
    source: Source
    supervisor: int = field(default_factory=lambda: _supervisor or os.getppid())


_waiting: list[_Success] = []


def confirm_later(guard: JobGuard, job_name: str, run_key: str, source: Source) -> None:
    """Confirm this success once Airflow has shown it. Takes over the guard, and closes it."""
    _waiting.append(_Success(guard, job_name, run_key, source))


def confirm_skip() -> None:
    """Airflow 2 tells nobody of a skip: it is taken for shown when the task says so."""
    if not AIRFLOW_V_3_0_PLUS:
        _confirm()


@hookimpl
def on_starting(component: object) -> None:  # noqa: ARG001
    """Load in a scheduler what its tasks need: those that it forks have it then, a tenth of a second sooner each."""
    if sys.argv[1:2] == ["scheduler"]:  # the component, a job, gets its type only after this
        import psycopg  # noqa: F401
        import redis  # noqa: F401

        import airflow_exclusive.airflow.connections
        import airflow_exclusive.airflow.operators  # noqa: F401


@hookimpl
def on_task_instance_running(previous_state: object, task_instance: object) -> None:  # noqa: ARG001
    """Remember who started the task: should that process die while it works, it has another parent by its end."""
    global _supervisor
    _supervisor = os.getppid()


@hookimpl
def on_task_instance_success(previous_state: object, task_instance: object) -> None:  # noqa: ARG001
    _confirm(of=task_instance)


@hookimpl
def on_task_instance_skipped(previous_state: object, task_instance: object) -> None:  # noqa: ARG001
    """The job itself decided to skip, and that counts as done; who is turned away has nothing to confirm."""
    _confirm()


def _confirm(of: object = None) -> None:
    """of: the task instance that Airflow should have as a success by now. As skipped it is shown only later."""
    while _waiting:
        success = _waiting.pop()
        with success.guard:
            if os.getppid() != success.supervisor:
                log.info("this task is an orphan: Airflow won't see its success, so it isn't confirmed")
                continue
            try:
                if of and not is_shown_as_success(of):
                    log.warning("Airflow hasn't got the success of %s, so it isn't confirmed", success.job_name)
                    continue
                success.guard.confirm(success.job_name, success.run_key, success.source)
            # A listener must never harm the task; clearing it twice then does what once should.
            except Exception as error:
                log.warning("could not confirm the success of %s %s: %s", success.job_name, success.run_key, error)
