"""SIGTERM in the middle of a call to Airflow: the task ends, and asks for nothing more on its way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG
from airflow.providers.standard.operators.bash import BashOperator

from airflow_exclusive import ExclusivePythonOperator, exclusive
from airflow_exclusive.airflow.compat import TaskStopped
from airflow_exclusive.core.errors import InvalidSetting, LeaseLost
from deploy.embedded.release import AIRFLOW_2
from tests.airflow.context import context_of
from tests.support.airflow_line import AIRFLOW
from tests.support.fakes import World
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(
    AIRFLOW.release is AIRFLOW_2, reason="a task of Airflow 2 asks the database and not its supervisor"
)


class Line:
    """A task's line to its supervisor, interrupted by SIGTERM before its first answer.

    It takes one call at a time: who asks once more while the first is under way waits for ever.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []

    def send(self, message: Any) -> Any:
        from airflow.sdk.execution_time.comms import ConnectionResult

        self.asked.append(type(message).__name__)
        if len(self.asked) == 1:
            signal.raise_signal(signal.SIGTERM)
        return ConnectionResult(
            conn_id="any", conn_type="redis", host="h", schema=None, login=None, password=None, port=1, extra=None
        )


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    from airflow.sdk.execution_time import task_runner

    made = Line()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", made, raising=False)
    return made


@pytest.fixture
def execute() -> Iterator[Callable[[Any], None]]:
    """Execute a task under the handler that Airflow installs in its process."""
    before = signal.getsignal(signal.SIGTERM)

    def begin(task: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
        task.execute(context_of(task))

    yield begin
    signal.signal(signal.SIGTERM, before)


def ask_airflow() -> None:
    from airflow.sdk.bases.xcom import BaseXCom

    BaseXCom.get_one(key="any", dag_id="any", task_id="any", run_id="r")
    pytest.fail("it was told to stop, and went on")


class AskingBash(BashOperator):
    def execute(self, context: Any) -> None:
        ask_airflow()


def asking_python() -> Any:
    return ExclusivePythonOperator(task_id="work", python_callable=ask_airflow, do_xcom_push=False)


def asking_bash() -> Any:
    return exclusive(AskingBash)(task_id="work", bash_command="true", do_xcom_push=False)


def test_a_task_that_is_stopped_since_its_lease_is_lost_goes_on_with_no_default_of_a_variable(
    line: Line, admitting: World, execute: Callable[[Any], None]
) -> None:
    """Airflow takes any `Exception` that comes up in a look-up for a variable that isn't there."""
    from airflow.sdk import Variable

    went_on: list[str] = []

    def work() -> None:
        admitting.keeper.trusted_for = 0
        went_on.append(Variable.get("mode", default="another mode"))

    with DAG("any", schedule=None):
        task = ExclusivePythonOperator(task_id="work", python_callable=work, do_xcom_push=False)
    with pytest.raises(LeaseLost, match=r"^stopped: taken over$"):
        execute(task)
    assert (went_on, line.asked) == ([], ["GetVariable"])
    assert admitting.statuses.finished == [("failed", "TaskStopped: stopped: taken over", 0.0)]


@pytest.mark.parametrize("task", [asking_python, asking_bash])
def test_a_task_that_is_told_to_stop_while_it_asks_airflow_ends_without_asking_again(
    line: Line, admitting: World, execute: Callable[[Any], None], task: Callable[[], Any]
) -> None:
    with DAG("any", schedule=None):
        asking = task()
    with pytest.raises(TaskStopped, match="stopped by SIGTERM"):
        execute(asking)
    assert line.asked == ["GetXCom"]
    assert admitting.statuses.finished == [("failed", "TaskStopped: stopped by SIGTERM", 0.0)]
    assert admitting.locks.holder is None


class TellingBash(BashOperator):
    """As one that logs when it is told to stop, which takes a lock."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_lock, self.told = threading.Lock(), 0

    def execute(self, context: Any) -> None:
        with self.log_lock:
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("it was told to stop, and went on")

    def on_kill(self) -> None:
        with self.log_lock:
            self.told += 1


class ToldTwice(TellingBash):
    def execute(self, context: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    def on_kill(self) -> None:
        super().on_kill()
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_task_that_is_told_to_stop_while_it_logs_ends(
    admitting: World, execute: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_exclusive.airflow.work._ON_KILL_WITHIN", 0.1)
    with DAG("any", schedule=None):
        task = exclusive(TellingBash)(task_id="work", bash_command="true", do_xcom_push=False)
    with pytest.raises(TaskStopped, match="stopped by SIGTERM"):
        execute(task)
    eventually(lambda: task.told == 1)
    assert admitting.locks.holder is None


class Log:
    """Interrupted by SIGTERM in the middle of a line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *values: object) -> None:
        self.lines.append(text % values)
        if text == "working":
            signal.raise_signal(signal.SIGTERM)

    warning = error = exception = info


class LoggingBash(BashOperator):
    log = Log()  # type: ignore[assignment]

    def execute(self, context: Any) -> None:
        self.log.info("working")


def test_nothing_is_logged_while_a_task_that_logs_is_stopped(admitting: World, execute: Callable[[Any], None]) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(LoggingBash)(task_id="work", bash_command="true", do_xcom_push=False)
    with pytest.raises(TaskStopped, match="stopped by SIGTERM"):
        execute(task)
    assert task.log.lines[-1] == "working"


def test_a_task_that_is_told_once_more_while_it_stops_ends(admitting: World, execute: Callable[[Any], None]) -> None:
    with DAG("any", schedule=None):
        task = exclusive(ToldTwice)(task_id="work", bash_command="true", do_xcom_push=False)
    with pytest.raises(TaskStopped, match="stopped by SIGTERM"):
        execute(task)
    assert task.told == 1
    assert admitting.locks.holder is None


def test_what_an_operator_raises_when_it_is_told_to_stop_is_the_cause(
    admitting: World, execute: Callable[[Any], None]
) -> None:
    class Failing(ToldTwice):
        def on_kill(self) -> None:
            raise ValueError("no such cluster")

    with DAG("any", schedule=None):
        task = exclusive(Failing)(task_id="work", bash_command="true", do_xcom_push=False)
    with pytest.raises(TaskStopped, match="stopped by SIGTERM") as raised:
        execute(task)
    assert isinstance(raised.value.__cause__, ValueError)
    assert admitting.statuses.finished == [("failed", "TaskStopped: stopped by SIGTERM", 0.0)]


def test_a_task_that_is_told_to_stop_while_it_asks_for_its_connections_asks_nobody_for_admission(
    line: Line, execute: Callable[[Any], None]
) -> None:
    with DAG("any", schedule=None):
        asking = asking_python()
    # Airflow takes what is raised within its look-up for a connection that isn't there.
    with pytest.raises((TaskStopped, InvalidSetting)):
        execute(asking)
    assert line.asked == ["GetConnection"]
