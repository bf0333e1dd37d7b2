"""Guarded tasks in `dag.test()`, against real stores: all DAGs of `dags/played.py`, run once, in one process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from airflow_exclusive import Admitted, JobGuard
from airflow_exclusive.core.admission import Attempt
from airflow_exclusive.stores.redis.scripts import lock_key
from deploy.embedded.airflow import AirflowDeployment
from deploy.embedded.release import AIRFLOW_2, PROJECT
from deploy.embedded.servers import Servers
from tests.airflow.dags.played import TICK
from tests.support.airflow_line import AIRFLOW

times_out = pytest.mark.skipif(AIRFLOW.release is AIRFLOW_2, reason="a timeout ends `dag.test` of Airflow 2 itself")
MODES = ["worker", "reschedule", "defer"]
DAGS = Path(__file__).parent / "dags"


@dataclass
class Played:
    """What became of the runs. `held` and `done` are the jobs that the test held and had done meanwhile."""

    runs: dict[str, dict[str, Any]]
    left: list[str]
    log: str
    guard: JobGuard
    redis_url: str
    held: str
    done: str

    def state(self, task: str, dag_id: str = "played") -> str:
        return str(self.runs[dag_id]["tasks"][task]["state"])

    def result(self, task: str, dag_id: str = "played") -> Any:
        return self.runs[dag_id]["tasks"][task]["result"]

    def answer(self, task: str, dag_id: str = "played") -> dict[str, Any]:
        """XCom `exclusive`."""
        return dict(self.runs[dag_id]["tasks"][task]["answer"])

    def run_id(self, dag_id: str = "played") -> str:
        return str(self.runs[dag_id]["run_id"])

    def attempts(self, job: str, dag_id: str = "played") -> list[Attempt]:
        """Those of this run, oldest first."""
        return [one for one in reversed(self.guard.history(job)) if one.source.run_id == self.run_id(dag_id)]

    def locked(self, job: str) -> bool:
        with redis.Redis.from_url(self.redis_url) as client:
            return bool(client.exists(lock_key(job)))


@pytest.fixture(scope="module")
def servers(server_folder: Path) -> Iterator[Servers]:
    made = Servers(server_folder / "dag-test-servers", durable=False)
    try:
        made.start("dag.test")
        yield made
    finally:
        made.stop("dag.test")
        made.remove()


@pytest.fixture(scope="module")
def environment(servers: Servers, server_folder: Path) -> dict[str, str]:
    """Of an Airflow with nothing but a metadata database."""
    airflow = AirflowDeployment(
        server_folder / "dag-test",
        name="dag.test",
        metadata_dsn=servers.postgres.create_database("airflow"),
        dags_folder=DAGS,
        plugins_folder=PROJECT / "plugins",
        env={**servers.connections, "PYTHONPATH": str(PROJECT)},
        release=AIRFLOW.tested,
    )
    airflow.cli("db", "migrate")
    return airflow.environment


@pytest.fixture(scope="module")
def played(servers: Servers, environment: dict[str, str]) -> Iterator[Played]:
    redis_url, name = servers.redis_url, uuid.uuid4().hex[:8]
    held, done = f"held {name}", f"done {name}"
    conf = json.dumps({"held": held, "done": done})
    with JobGuard(redis=redis_url, postgres=servers.status_dsn) as guard:
        holder = guard.admit(held, run_key="the holder's tick")
        doer = guard.admit(done, run_key=TICK)
        assert isinstance(holder, Admitted)
        assert isinstance(doer, Admitted)
        doer.lease.finish()
        process = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.airflow.play",
                conf,
                "played",
                "refused",
                "native",
                "failing",
                "unheard",
                "waiting",
                "in_turn",
            ],
            env=environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        told = json.loads(process.stdout.splitlines()[-1])
        holder.lease.ensure_held()
        holder.lease.finish()
        yield Played(told["runs"], told["left"], process.stdout + process.stderr, guard, redis_url, held, done)


# admitted


@pytest.mark.parametrize(
    "task",
    [
        *("bash", "python", "empty", "sql", "decorated"),
        *("mapped[0]", "mapped[1]", "mapped[2]", "mapped_bash[0]", "mapped_bash[1]"),
        *("is_free", "is_done"),
    ],
)
def test_every_kind_of_guarded_task_and_sensor_succeeds(played: Played, task: str) -> None:
    assert played.state(task) == "success"


@pytest.mark.parametrize("task", ["bash", "python", "empty", "sql", "mapped[0]", "mapped[2]"])
def test_a_job_that_has_no_name_is_called_after_its_task_and_is_in_the_ledger(played: Played, task: str) -> None:
    (attempt,) = played.attempts(f"played.{task}")
    assert (attempt.outcome, attempt.error, attempt.run_key) == ("success", None, played.run_id())
    assert (attempt.source.dag_id, attempt.source.task_id) == ("played", task.partition("[")[0])
    assert attempt.source.try_number == 1
    assert not played.locked(f"played.{task}")


def test_names_are_templates(played: Played) -> None:
    (attempt,) = played.attempts("played monday")
    assert attempt.run_key == f"{played.run_id()} x"
    assert len(played.attempts(f"part of {played.run_id()} 1")) == 1


def test_what_was_decided_is_in_xcom(played: Played) -> None:
    (attempt,) = played.attempts("played.bash")
    told = played.answer("bash")
    assert told.pop("why").startswith(f"admitted: played.bash {played.run_id()} attempt 1 with token")
    assert told == {
        "decision": "admitted",
        "job_name": "played.bash",
        "run_key": played.run_id(),
        "token": attempt.fencing_token,
        "generation": 1,
        "attempt": 1,
        "owner": attempt.owner,
        "took_over_from": None,
    }


def test_a_command_has_the_lease_in_its_environment_and_in_its_templates(played: Played) -> None:
    token = played.answer("bash")["token"]
    assert played.result("bash") == f"played.bash {token} {token} {played.run_id()}"


def test_a_query_has_the_lease_in_its_templates(played: Played) -> None:
    told = json.dumps(played.result("sql"))
    assert f'{played.answer("sql")["token"]}, "played.sql"' in told


@pytest.mark.parametrize("task", ["python", "decorated"])
def test_a_function_is_given_its_lease(played: Played, task: str) -> None:
    told, answer = played.result(task), played.answer(task)
    assert {name: told[name] for name in ("job_name", "run_key", "token")} == {
        name: answer[name] for name in ("job_name", "run_key", "token")
    }


def test_a_functions_own_arguments_are_still_given_to_it(played: Played) -> None:
    assert played.result("decorated")["day"] == "monday"
    tokens = [played.answer(f"mapped[{n}]")["token"] for n in range(3)]
    assert [played.result(f"mapped[{n}]") for n in range(3)] == [10**n * tokens[n] for n in range(3)]


def test_nothing_of_a_lease_stays_in_the_environment(played: Played) -> None:
    assert played.left == []


# refused


@pytest.mark.parametrize(
    ("task", "state", "decision"),
    [
        ("busy_skip", "skipped", "busy"),
        ("busy_fail", "failed", "busy"),
        ("busy_wait", "failed", "busy"),
        ("done_skip", "skipped", "already_done"),
        ("done_success", "success", "already_done"),
        ("done_fail", "failed", "already_done"),
    ],
)
def test_who_is_refused_ends_by_its_policy_and_says_why(played: Played, task: str, state: str, decision: str) -> None:
    answer = played.answer(task, "refused")
    assert (played.state(task, "refused"), answer["decision"]) == (state, decision)
    assert answer["job_name"] == (played.held if decision == "busy" else played.done)
    assert answer["run_key"] == ("the holder's tick" if decision == "busy" else TICK)
    assert answer["by"] == "command line"
    assert answer["why"] in played.log


def test_refusals_are_on_record_and_nobody_who_was_refused_ran(played: Played) -> None:
    refused = {job: [one.source.task_id for one in played.guard.refusals(job)] for job in (played.held, played.done)}
    late, done = [f"late_{mode}" for mode in MODES], [f"done_{mode}" for mode in MODES]
    assert sorted(refused[played.held]) == sorted(["busy_fail", "busy_skip", "busy_wait", *late])
    assert sorted(refused[played.done]) == sorted(["done_fail", "done_skip", "done_success", *done])
    assert len(played.guard.history(played.held)) == len(played.guard.history(played.done)) == 1


@pytest.mark.parametrize(
    ("task", "state"),
    [
        ("sense_skip", "skipped"),
        ("sense_success", "success"),
        ("sense_fail", "failed"),
        ("sense_busy", "failed"),
        ("sense_not_done", "failed"),
    ],
)
def test_a_sensor_waits_for_what_it_asks_for_and_no_longer_than_it_may(played: Played, task: str, state: str) -> None:
    assert played.state(task, "refused") == state


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("nameless", "job_name='': must not be empty; leave it out for the default"),
        ("timeless", "run_key='': must not be empty; leave it out for the default"),
        ("misspelt", "template='lease.tokn': must be one of token, owner"),
        ("unconnected", "redis_conn_id='nowhere': there is no such connection; create it"),
    ],
)
def test_what_only_shows_when_the_task_runs_is_told_as_clearly(played: Played, task: str, says: str) -> None:
    assert played.state(task, "refused") == "failed"
    assert says in played.log
    assert played.attempts(f"refused.{task}", "refused") == []


@pytest.mark.parametrize(
    ("dag_id", "task", "job", "says"),
    [
        ("refused", "named_by_number", "20130102", "job_name=20130102: must be text, not int"),
        (
            "refused",
            "keyed_by_mapping",
            "refused.keyed_by_mapping",
            "run_key={'day': 'monday'}: must be text, not dict",
        ),
        ("native", "native_number", "20130103", "job_name=20130103: must be text, not int"),
        ("native", "native_key", "native.native_key", "run_key=[1, 2]: must be text, not list"),
    ],
)
def test_a_name_that_turns_out_to_be_no_text_is_refused_before_anything_is_taken(
    played: Played, dag_id: str, task: str, job: str, says: str
) -> None:
    assert played.state(task, dag_id) == "failed"
    assert says in played.log
    assert not played.locked(job)
    assert played.guard.history(job) == []


# failing


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("fails", "ValueError: no rows today"),
        ("exits", "AirflowException: Bash command failed."),
        pytest.param("times_out", "AirflowTaskTimeout: Timeout", marks=times_out),
    ],
)
def test_a_body_that_fails_is_on_record_with_its_error_and_locks_nobody_out(
    played: Played, task: str, error: str
) -> None:
    assert played.state(task, "failing") == "failed"
    (attempt,) = played.attempts(f"failing.{task}", "failing")
    assert attempt.outcome == "failed"
    assert str(attempt.error).startswith(error)
    assert not played.locked(f"failing.{task}")


@times_out
def test_execution_timeout_cancels_a_remote_job_before_its_lease_is_given_back(played: Played) -> None:
    told = re.findall("the remote job is cancelled while its attempt is ([a-z]+)", played.log)
    assert told == ["running"]


def test_a_body_that_skips_has_done_its_tick(played: Played) -> None:
    assert played.state("skips", "failing") == "skipped"
    (attempt,) = played.attempts("failing.skips", "failing")
    assert (attempt.outcome, attempt.error) == ("success", "skipped itself: nothing to do today")


def test_mapped_instances_that_share_job_and_tick_are_told_so(played: Played) -> None:
    first, second = sorted(range(2), key=lambda n: played.state(f"shares[{n}]", "failing"), reverse=True)
    assert [played.state(f"shares[{n}]", "failing") for n in (first, second)] == ["success", "failed"]
    assert f"mapped instances {first} and {second} of shares share it and the tick, so only one of them" in played.log


# unheard: done, and tried again


@pytest.mark.parametrize("task", ["listed", "several", "stops"])
def test_a_retry_of_what_is_done_is_a_success_without_running_again(played: Played, task: str) -> None:
    assert played.state(task, "unheard") == "success"
    assert [attempt.outcome for attempt in played.attempts(f"unheard.{task}", "unheard")] == ["success"]


def test_what_was_returned_reaches_who_waits_for_it(played: Played) -> None:
    (attempt,) = played.attempts("unheard.listed", "unheard")
    returned = [attempt.fencing_token, "and more"]
    assert played.result("all", "unheard") == returned
    assert [played.result(f"each[{index}]", "unheard") for index in (0, 1)] == returned


def test_of_several_outputs_each_reaches_who_waits_for_it(played: Played) -> None:
    (attempt,) = played.attempts("unheard.several", "unheard")
    assert played.result("one_of_several", "unheard") == attempt.fencing_token


def test_what_was_skipped_stays_skipped(played: Played) -> None:
    skipped = ["stopped", "later"]
    assert [played.state(task, "unheard") for task in skipped] == ["skipped", "skipped"]
    assert set(played.runs["unheard"]["tasks"]["stops"]["choice"]["skipped"]) == set(skipped)


def test_a_retry_that_has_nothing_to_hand_over_fails(played: Played) -> None:
    assert played.state("long", "unheard") == "failed"
    assert "characters as JSON, more than 65536: it isn't kept" in played.log
    assert "Clear the task to have it run again" in played.log


# waiting


@pytest.mark.parametrize("mode", MODES)
def test_a_waiter_takes_over_when_a_lease_lapses_wherever_it_waits(played: Played, mode: str) -> None:
    answer = played.answer(f"takes_over_{mode}", "waiting")
    assert (played.state(f"takes_over_{mode}", "waiting"), answer["decision"]) == ("success", "admitted")
    assert answer["took_over_from"] == "silent node"
    assert mode == "worker" or f"; waiting ({mode})" in played.log
    assert not played.locked(answer["job_name"])


def test_a_mapped_waiter_does_so_as_well(played: Played) -> None:
    assert played.answer("mapped[0]", "waiting")["took_over_from"] == "silent node"


@pytest.mark.parametrize("mode", MODES)
def test_patience_ends_wherever_one_waits_and_is_told_in_the_same_words(played: Played, mode: str) -> None:
    answer = played.answer(f"late_{mode}", "waiting")
    assert (played.state(f"late_{mode}", "waiting"), answer["decision"]) == ("failed", "busy")
    assert f"NotAdmitted: {answer['why']}" in played.log


@pytest.mark.parametrize("mode", MODES)
def test_a_tick_that_is_done_is_no_reason_to_wait(played: Played, mode: str) -> None:
    answer = played.answer(f"done_{mode}", "waiting")
    assert (played.state(f"done_{mode}", "waiting"), answer["decision"]) == ("skipped", "already_done")


def test_sensors_that_are_rescheduled_see_what_they_wait_for(played: Played) -> None:
    for task in ("sense_free", "sense_done", "sensed"):
        assert played.state(task, "in_turn") == "success"
    job = f"lapses {played.run_id('in_turn')}"
    silent = f"busy: {job} runs tick the silent one's tick on silent node"
    assert silent in played.log
    assert played.log.index(silent) < played.log.rindex(f"{job} {played.run_id('in_turn')}: nobody runs it")
    assert f"already done: {job}" in played.log


@pytest.mark.parametrize(
    ("task", "state"),
    [
        *(("sense_skip", "skipped"), ("sense_success", "success"), ("sense_fail", "failed")),
        *(("sense_soft", "skipped"), ("sense_free", "success"), ("nowhere", "failed")),
    ],
)
def test_a_sensor_that_defers_ends_as_one_that_pokes(played: Played, task: str, state: str) -> None:
    assert played.state(task, "waiting") == state
