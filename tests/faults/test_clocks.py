"""A node whose wall clock is wrong, or is set while a job runs: nothing goes by it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_exclusive.core.admission import Admitted, Busy
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.node import clock
from tests.support.jobs import JobProcess, freeze
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import Truth, settings
from tests.support.set_clock import SetClock
from tests.support.waiting import eventually

TTL = 6.0
"""Long enough for a keeper to start under libfaketime on a busy machine: everything there asks a file for the time."""
HOUR = 3600


class NodeClock(SetClock):
    """Of processes that are started from now on."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(file)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def shows(self) -> tuple[float, float]:
        """Seconds by which the wall clock and the keepers' own differ from the truth, as a process sees them."""
        ask = "import time; from airflow_exclusive.node import clock; print(time.time(), clock())"
        wall, monotonic = map(float, python("-c", ask).split())
        return wall - time.time(), monotonic - clock()


def python(*arguments: str) -> str:
    """What a process on the node prints."""
    paths = [*sys.path, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def node_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeClock:
    return NodeClock(tmp_path / "clock", monkeypatch)


@pytest.fixture
def start(redis_url: str, database: str) -> Iterator[Callable[..., JobProcess]]:
    started: list[JobProcess] = []

    def begin(**options: Any) -> JobProcess:
        started.append(JobProcess(redis_url, database, ttl=TTL, on_lease_lost="raise", **options))
        return started[-1]

    yield begin
    for job in started:
        job.clean_up()


@pytest.fixture
def truth(redis_url: str, database: str) -> Truth:
    return Truth(redis_url, database)


@pytest.fixture
def guard(redis_url: str, database: str) -> Iterator[JobGuard]:
    """Another node, whose clock is right."""
    with JobGuard(redis=redis_url, postgres=database) as made:
        yield made


def test_the_clock_of_a_node_can_be_set_here(node_clock: NodeClock) -> None:
    for seconds in (HOUR, -HOUR):
        node_clock.set(seconds)
        wall, monotonic = node_clock.shows()
        assert abs(wall - seconds) < 10
        assert abs(monotonic) < 10


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_node_an_hour_off_keeps_its_lease_and_loses_it_like_any_other(
    node_clock: NodeClock, start: Any, truth: Truth, guard: JobGuard, seconds: int
) -> None:
    node_clock.set(seconds)
    runner = start()
    eventually(lambda: node_clock.rules(runner.pid, runner.keeper))  # not before the keeper is executed
    truth.wait_for_renewals(4)  # past its ttl
    assert isinstance(guard.admit(JOB, run_key=TICK), Busy)
    assert runner.tell("check") == "held"
    (run,) = guard.history(JOB)
    assert abs(run.started_at.timestamp() - time.time()) < 60  # the database's time
    freeze(runner.pid, runner.keeper)
    frozen = time.monotonic()
    admission = guard.admit(JOB, run_key=TICK, wait=30, settings=settings())
    assert isinstance(admission, Admitted)
    assert 0.5 * TTL < time.monotonic() - frozen < 2.5 * TTL
    admission.lease.finish()
    assert truth.outcomes() == ["taken_over", "success"]


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_that_is_set_during_a_run_changes_nothing(
    node_clock: NodeClock, start: Any, truth: Truth, guard: JobGuard, seconds: int
) -> None:
    runner = start()
    eventually(lambda: node_clock.rules(runner.pid, runner.keeper))  # not before the keeper is executed
    truth.wait_for_renewals(1)
    node_clock.set(seconds)
    truth.wait_for_renewals(4)
    assert runner.tell("check") == "held"
    assert isinstance(guard.admit(JOB, run_key=TICK), Busy)
    node_clock.set(-seconds)
    truth.wait_for_renewals(2)
    assert runner.tell("keeper") == runner.keeper
    assert runner.tell("finish") == "success"
    assert truth.outcomes() == ["success"]
    assert truth.lock() is None


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_waiter_an_hour_off_neither_gives_up_nor_takes_over_too_soon(
    node_clock: NodeClock, start: Any, truth: Truth, guard: JobGuard, seconds: int
) -> None:
    runner = guard.admit(JOB, run_key=TICK, settings=settings(TTL))
    assert isinstance(runner, Admitted)
    node_clock.set(seconds)
    waiting: list[JobProcess] = []
    waiter = threading.Thread(target=lambda: waiting.append(start(wait=30)))
    waiter.start()
    truth.wait_for_renewals(4)
    runner.lease.ensure_held()
    assert waiting == []
    runner.lease.finish("failed")
    waiter.join(30)
    assert waiting[0].tell("finish") == "success"
    assert truth.outcomes() == ["failed", "success"]


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_doctor_tells_by_how_much_the_clocks_differ(
    node_clock: NodeClock, redis_url: str, database: str, seconds: int
) -> None:
    node_clock.set(seconds)
    told = python("-m", "airflow_exclusive.cli", "doctor", "--redis", redis_url, "--postgres", database, "--json")
    skew = {
        found["subject"]: float(match[1])
        for found in json.loads(told)
        if (match := re.match(r"its clock is ([+-][0-9.]+) s from this node's", found["text"]))
    }
    assert set(skew) == {"Redis", "Postgres"}
    assert all(abs(difference + seconds) < 10 for difference in skew.values())


def test_purge_goes_by_the_clock_of_postgres(node_clock: NodeClock, guard: JobGuard, database: str) -> None:
    """A node that is years ahead would forget what has just been done, and let it be done again."""
    for tick in (TICK, "the tick after"):
        with guard.hold(JOB, run_key=tick):
            pass
    node_clock.set(10 * 365 * 24 * HOUR)
    assert node_clock.shows()[0] > 9 * 365 * 24 * HOUR
    told = python("-m", "airflow_exclusive.cli", "purge", "--older-than", "30", "--postgres", database)
    assert told == "runs: 0 deleted, refusals: 0 deleted\n"
    assert [attempt.run_key for attempt in guard.history(JOB)] == ["the tick after", TICK]
