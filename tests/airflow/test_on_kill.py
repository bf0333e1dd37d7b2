"""An operator's own `on_kill`, which cancels what no process of ours does: in time, that is under the lease."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_exclusive import exclusive
from airflow_exclusive.airflow import connections
from airflow_exclusive.airflow.compat import AirflowTaskTimeout, TaskStopped
from airflow_exclusive.airflow.work import Work
from airflow_exclusive.keeper.page import Entry, Page
from tests.airflow.context import context_of
from tests.support.fakes import World, busy, world
from tests.support.jobs import alive


class RemoteJob(BaseOperator):
    """Ends by `ends_by`; `seen`: what there was of the lease whenever its remote job was cancelled."""

    def __init__(self, *, ends_by: str, world: World, refuses: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ends_by, self.world, self.refuses = ends_by, world, refuses
        self.seen: list[str] = []

    def execute(self, context: Any) -> None:
        if self.ends_by == "timeout":
            raise AirflowTaskTimeout("Timeout")
        if self.ends_by == "SIGTERM":
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("no rows today")

    def on_kill(self) -> None:
        self.seen.append("held" if self.world.locks.holder else "given back")
        self.world.calls("cancelled")
        if self.refuses:
            raise ConnectionError("the cluster doesn't answer")


@pytest.fixture
def ended_work(monkeypatch: pytest.MonkeyPatch, admitting: World) -> None:
    monkeypatch.setattr(Work, "_end_started", lambda *_: admitting.calls("processes ended"))


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(task: Any) -> None:
    """As Airflow does it."""
    try:
        task.execute(context_of(task))
    except AirflowTaskTimeout:
        task.on_kill()
        raise


def played(world: World, **settings: Any) -> tuple[Any, BaseException]:
    """The task, and how it ended."""
    with DAG("any", schedule=None):
        task: Any = exclusive(RemoteJob)(task_id="work", world=world, do_xcom_push=False, **settings)
    signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    with pytest.raises(BaseException) as ended:  # noqa: PT011
        run(task)
    return task, ended.value


@pytest.mark.usefixtures("ended_work")
@pytest.mark.parametrize(("ends_by", "error"), [("timeout", AirflowTaskTimeout), ("SIGTERM", TaskStopped)])
def test_a_remote_job_is_cancelled_before_the_lease_is_given_back(
    admitting: World, ends_by: str, error: type[BaseException]
) -> None:
    task, ended = played(admitting, ends_by=ends_by)
    assert isinstance(ended, error)
    assert task.seen == ["held"]
    names = admitting.calls.names
    assert names.index("cancelled") < names.index("processes ended") < names.index("keeper stops")
    assert admitting.statuses.finished[0][0] == "failed"
    assert admitting.locks.holder is None


@pytest.mark.usefixtures("ended_work")
def test_a_remote_job_that_cannot_be_cancelled_hides_no_timeout_and_airflows_own_try_follows(
    admitting: World, caplog: pytest.LogCaptureFixture
) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(RemoteJob)(
            task_id="work", world=admitting, ends_by="timeout", refuses=True, do_xcom_push=False
        )
    with caplog.at_level(logging.ERROR), pytest.raises(AirflowTaskTimeout):
        task.execute(context_of(task))
    assert "processes ended" in admitting.calls.names
    assert admitting.statuses.finished == [("failed", "AirflowTaskTimeout: Timeout", 0.0)]
    with pytest.raises(ConnectionError):
        task.on_kill()
    assert task.seen == ["held", "given back"]


class Stubborn(RemoteJob):
    """Catches what it is stopped by."""

    def execute(self, context: Any) -> None:
        with suppress(TaskStopped):
            signal.raise_signal(signal.SIGTERM)
        self.world.calls("goes on")


@pytest.mark.usefixtures("ended_work")
def test_what_a_job_has_started_is_ended_by_sigterm_even_if_it_does_not_stop_itself(admitting: World) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(Stubborn)(task_id="work", world=admitting, ends_by="SIGTERM", do_xcom_push=False)
    signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    task.execute(context_of(task))
    names = admitting.calls.names
    assert names.index("cancelled") < names.index("processes ended") < names.index("goes on")


@pytest.mark.usefixtures("ended_work")
def test_what_a_job_that_fails_has_started_is_ended_under_its_lease_and_no_remote_job_cancelled(
    admitting: World,
) -> None:
    task, ended = played(admitting, ends_by="an error")
    assert (str(ended), task.seen) == ("no rows today", [])
    names = admitting.calls.names
    assert names.index("processes ended") < names.index("keeper stops")


def test_the_next_execution_is_cancelled_like_the_first(admitting: World) -> None:
    task, _ = played(admitting, ends_by="timeout")
    with pytest.raises(AirflowTaskTimeout):
        task.execute(context_of(task))
    assert task.seen == ["held", "held"]


@pytest.mark.parametrize(("ends_by", "error"), [("timeout", AirflowTaskTimeout), ("SIGTERM", TaskStopped)])
def test_who_waits_for_the_job_cancels_nothing_of_whoever_has_it(
    monkeypatch: pytest.MonkeyPatch, ends_by: str, error: type[BaseException]
) -> None:
    """A remote job may have a given name, the same for the waiter and the one that runs it."""
    asked = world(busy(), looks=[busy()])
    monkeypatch.setattr(connections, "open_guard", lambda *_: asked.guard)

    def told(job_name: str, timeout: float) -> None:
        if ends_by == "timeout":
            raise AirflowTaskTimeout("Timeout")
        signal.raise_signal(signal.SIGTERM)

    asked.guard.close = lambda: None  # type: ignore[attr-defined]
    asked.locks.wait_for_release = told  # type: ignore[method-assign]
    task, ended = played(asked, ends_by="never begins", on_busy="wait", wait_mode="worker")
    assert isinstance(ended, error)
    assert task.seen == []


class Successful(RemoteJob):
    def execute(self, context: Any) -> None:
        self.world.calls("worked")


def test_a_task_that_has_ended_well_cancels_nothing(admitting: World) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(Successful)(task_id="work", world=admitting, ends_by="itself", do_xcom_push=False)
    task.execute(context_of(task))
    task.on_kill()
    assert task.seen == []


class Forking(BaseOperator):
    """Its fork has forked, and died: what that one does is nobody's child any more."""

    def execute(self, context: Any) -> None:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            if (grandchild := os.fork()) == 0:
                while True:
                    signal.pause()
            os.write(write, str(grandchild).encode())
            os._exit(0)
        os.waitpid(child, 0)
        self.grandchild = int(os.read(read, 32))
        os.close(read)
        os.close(write)
        raise ValueError("my worker died")


class FailingInAFork(BaseOperator):
    def execute(self, context: Any) -> None:
        child = os.fork()
        if child == 0:
            raise ValueError("in the fork")
        os.waitpid(child, 0)


def test_a_fork_that_a_failing_task_has_lost_sight_of_is_ended_before_the_lease_is_given_back(
    admitting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page.create(Entry(confirmed=0.0))
    admitting.keeper.page = page.name
    with DAG("any", schedule=None):
        task: Any = exclusive(Forking)(task_id="work", do_xcom_push=False)
    at_the_end: list[bool] = []
    monkeypatch.setattr(admitting.keeper, "stop", lambda: at_the_end.append(alive(task.grandchild)))
    try:
        with pytest.raises(ValueError, match="my worker died"):
            task.execute(context_of(task))
        assert at_the_end == [False]
    finally:
        page.close()
        with suppress(ProcessLookupError):
            os.kill(task.grandchild, signal.SIGKILL)


def test_a_fork_that_fails_ends_nothing_of_its_parents(admitting: World) -> None:
    parent = os.fork()
    if parent == 0:
        status = 1
        try:
            page = Page.create(Entry(confirmed=0.0))
            admitting.keeper.page = page.name
            with DAG("any", schedule=None):
                task: Any = exclusive(FailingInAFork)(task_id="work", do_xcom_push=False)
            task.execute(context_of(task))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(parent, 0)[1] == 0


class EndingItsWorker(BaseOperator):
    """As a pool that is left does: its worker has the task's handler of SIGTERM."""

    cancelled = False

    def execute(self, context: Any) -> None:
        if (worker := os.fork()) == 0:
            status = 2
            try:
                self.on_kill()
            except TaskStopped:
                status = int(self.cancelled)
            finally:
                os._exit(status)
        self.status = os.waitpid(worker, 0)[1]

    def on_kill(self) -> None:
        self.cancelled = True


@pytest.mark.usefixtures("admitting")
def test_a_worker_of_the_task_that_is_ended_cancels_nothing() -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(EndingItsWorker)(task_id="work", do_xcom_push=False)
    task.execute(context_of(task))
    assert task.status == 0
