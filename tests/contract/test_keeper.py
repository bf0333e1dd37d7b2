"""Real jobs with real keepers: killed, frozen, cut off and taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from airflow_exclusive.core.admission import Admitted, AlreadyDone, Busy
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.keeper import handle
from airflow_exclusive.keeper.handle import KeeperHandle
from airflow_exclusive.keeper.order import Order
from airflow_exclusive.stores.postgres.schema import upgrade
from airflow_exclusive.stores.redis.scripts import lock_key
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.valkey import EmbeddedValkey
from tests.support.deaths import Deaths
from tests.support.jobs import JobProcess, alive, freeze, thaw
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import keepers
from tests.support.servers import send_all
from tests.support.waiting import eventually, stays

TTL = 6.0
"""Seconds of a lease whose renewal or loss a test waits for: a keeper on a busy machine starts within them."""

LONG_TTL = 60.0
"""Of one that nobody waits for: what comes much sooner didn't wait for its end."""

ROOMY_TTL = 9.0
"""Of one whose job must be dead in time: the tenth of it that is left has to be enough, on a busy machine too."""

PATIENCE = 45.0
"""Seconds until an event that must come is given up on."""

Start = Callable[..., JobProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an admitted job; none is left at the end."""
    started: list[JobProcess] = []

    def begin(redis: str, postgres: str, **options: Any) -> JobProcess:
        started.append(JobProcess(redis, postgres, **{"ttl": LONG_TTL, **options}))
        return started[-1]

    yield begin
    for job in started:
        job.clean_up()


@pytest.fixture
def job(start: Start, redis_url: str, database: str) -> Callable[..., JobProcess]:
    """Start an admitted job on the common servers."""
    return lambda **options: start(redis_url, database, **options)


@pytest.fixture
def guard(redis_url: str, database: str) -> Iterator[JobGuard]:
    """Another node."""
    with JobGuard(redis=redis_url, postgres=database) as made:
        yield made


@pytest.fixture
def effects(database: str) -> Iterator[Callable[[], list[int]]]:
    """The tokens under which the effect was committed."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE effect (token bigint)")
        yield lambda: [row[0] for row in conn.execute("SELECT token FROM effect ORDER BY token")]


def outcomes(guard: JobGuard) -> list[str]:
    return [run.outcome for run in reversed(guard.history(JOB))]


def lapses(guard: JobGuard, ttl: float) -> float:
    """When the lease that is renewed no more does so, in seconds since the epoch."""
    (status,) = guard.status(JOB)
    assert status.heartbeat_at
    return status.heartbeat_at.timestamp() + ttl - (guard.statuses.clock() - time.time())


def take_over(guard: JobGuard, wait: float = PATIENCE, **settings: Any) -> Lease:
    settings = {"ttl": 30, "on_lease_lost": "raise", **settings}
    admission = guard.admit(JOB, run_key=TICK, wait=wait, settings=LeaseSettings(**settings))
    assert isinstance(admission, Admitted), str(admission)
    return admission.lease


def heartbeat(guard: JobGuard) -> float:
    """How long after its start the attempt was last renewed, in seconds."""
    (status,) = guard.status(JOB)
    assert status.started_at
    assert status.heartbeat_at
    return (status.heartbeat_at - status.started_at).total_seconds()


def wait_for_renewals(guard: JobGuard, number: int) -> None:
    for _ in range(number):
        before = heartbeat(guard)
        eventually(lambda before=before: heartbeat(guard) > before, PATIENCE)  # type: ignore[misc]


# as long as all is well


def test_a_lease_is_renewed_past_its_ttl(job: Any, guard: JobGuard, redis_client: redis.Redis) -> None:
    runner = job(ttl=TTL)
    eventually(lambda: heartbeat(guard) > TTL, PATIENCE)
    assert isinstance(guard.admit(JOB, run_key=TICK), Busy)
    assert redis_client.get(lock_key(JOB)) == runner.owner
    assert runner.tell("check") == "held"


def test_the_end_of_a_lease_leaves_no_keeper_and_no_lock(job: Any, guard: JobGuard, redis_client: redis.Redis) -> None:
    runner = job()
    assert runner.tell("finish") == "success"
    assert not alive(runner.keeper)
    assert redis_client.get(lock_key(JOB)) is None
    assert outcomes(guard) == ["success"]
    assert isinstance(guard.admit(JOB, run_key=TICK), AlreadyDone)


def test_a_lease_that_ends_at_once_leaves_no_keeper_either(guard: JobGuard, redis_client: redis.Redis) -> None:
    for n in range(3):
        with guard.hold(JOB, run_key=f"tick {n}"):
            pass
    assert outcomes(guard) == ["success"] * 3
    assert redis_client.get(lock_key(JOB)) is None
    assert not [
        child for child in psutil.Process().children() if any("keeper.process" in part for part in child.cmdline())
    ]


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def no_memory(*_: object) -> str:
    raise MemoryError


@pytest.mark.parametrize(
    ("what", "name", "fails"),
    [(Order, "to_json", no_memory), (KeeperHandle, "_start_watching", no_thread)],
    ids=["before it knows its job", "when it may be up already"],
)
def test_a_keeper_that_cannot_be_used_is_not_left_behind(
    guard: JobGuard, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, what: type, name: str, fails: Any
) -> None:
    """It would renew for nobody, and then end this process since its lease is lost."""
    monkeypatch.setattr(what, name, fails)
    open_before = psutil.Process().num_fds()
    guard.locks.owner(JOB)
    guard.status()
    connected = psutil.Process().num_fds() - open_before
    with pytest.raises((MemoryError, RuntimeError)):
        guard.admit(JOB, run_key=TICK, settings=LeaseSettings(ttl=LONG_TTL, on_lease_lost="raise"))
    assert keepers() == []
    assert psutil.Process().num_fds() == open_before + connected
    assert outcomes(guard) == ["failed"]
    assert redis_client.get(lock_key(JOB)) is None


def test_c_code_that_holds_the_gil_past_the_ttl_does_not_lose_the_lease(job: Any, guard: JobGuard) -> None:
    runner = job(ttl=TTL)
    assert runner.tell("hold_the_gil", seconds=1.1 * TTL, timeout=200) > 1.1 * TTL
    assert runner.tell("check") == "held"
    assert runner.tell("keeper") == runner.keeper
    assert runner.tell("finish") == "success"
    assert outcomes(guard) == ["success"]


def test_a_killed_keeper_is_replaced_and_the_lease_goes_on(job: Any, guard: JobGuard) -> None:
    runner = job(ttl=2 * TTL)
    os.kill(runner.keeper, signal.SIGKILL)
    eventually(lambda: runner.tell("keeper") != runner.keeper, PATIENCE)
    wait_for_renewals(guard, 1)
    assert runner.tell("check") == "held"
    assert runner.tell("finish") == "success"


def test_a_frozen_keeper_is_replaced_and_the_lease_goes_on(job: Any, guard: JobGuard) -> None:
    runner = job(ttl=2 * TTL, on_lease_lost="stop")
    wait_for_renewals(guard, 1)
    freeze(runner.keeper)
    eventually(lambda: runner.tell("keeper") != runner.keeper, PATIENCE)
    assert not alive(runner.keeper)
    assert isinstance(guard.admit(JOB, run_key=TICK), Busy)
    wait_for_renewals(guard, 1)
    assert runner.tell("check") == "held"
    assert runner.tell("finish") == "success"
    assert outcomes(guard) == ["success"]


def test_a_node_that_stood_still_for_a_moment_keeps_its_keeper(job: Any, guard: JobGuard) -> None:
    """The job's own delay must not look like the keeper's."""
    runner = job(ttl=2 * TTL)
    wait_for_renewals(guard, 1)
    freeze(runner.keeper, runner.pid)
    assert stays(lambda: runner.process.poll() is None, 0.3 * 2 * TTL)
    thaw(runner.pid)
    assert runner.tell("check") == "held"
    thaw(runner.keeper)
    wait_for_renewals(guard, 1)
    assert runner.tell("keeper") == runner.keeper
    assert runner.tell("check") == "held"


def test_a_job_without_standard_error_gives_its_keeper_nothing_to_write_into(redis_url: str, database: str) -> None:
    """Else what the keeper says would go into whatever file or connection came to be number 2."""
    script = (
        "import os, time; from airflow_exclusive import JobGuard\n"
        f"with JobGuard(redis={redis_url!r}, postgres={database!r}).hold('job') as lease:\n"
        "    while not lease._keeper._page.read().ready: time.sleep(0.01)\n"
        "    print(os.readlink(f'/proc/{lease._keeper.pid}/fd/2'), lease._keeper._page.descriptor)"
    )
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.split()
    assert told[0] == "/dev/null"
    assert int(told[1]) > 2


CLOSES_ALL = """
import os, sys, time
from airflow_exclusive import JobGuard
guard = JobGuard(redis=sys.argv[1], postgres=sys.argv[2])
keeper = guard.admit("job").lease._keeper
while not keeper._page.read().ready: time.sleep(0.01)
os.closerange(3, 256)
files = [open(f"{sys.argv[3]}/{number}", "w+b", buffering=0) for number in range(60)]
try: keeper._spawn()
except OSError as error: print(error)
keeper.stop()
for file in files: file.write(b"mine")
print(keeper._process.returncode)
os._exit(0)
"""


def test_what_a_job_opens_that_has_closed_everything_is_its_own(redis_url: str, database: str, tmp_path: Path) -> None:
    """Neither closed nor written into, by the one who stops the keeper or by a keeper."""
    command = [sys.executable, "-c", CLOSES_ALL, redis_url, database, str(tmp_path)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    assert "the job has closed descriptor" in told
    assert told.splitlines()[-1] == str(-signal.SIGKILL)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"mine"] * 60


def test_a_forked_child_that_ends_does_not_end_the_lease(job: Any, guard: JobGuard) -> None:
    runner = job(ttl=TTL)
    child = runner.tell("fork")
    os.kill(child, signal.SIGKILL)
    wait_for_renewals(guard, 2)  # the first of them may have been under way
    assert runner.tell("check") == "held"
    assert runner.tell("keeper") == runner.keeper


def test_a_fork_that_ends_like_any_process_leaves_its_parents_attempt_alone(job: Any, guard: JobGuard) -> None:
    runner = job()
    (told,) = runner.tell("fork_and_leave")
    assert "only the process that was admitted ends the attempt" in told
    assert runner.tell("check") == "held"
    assert outcomes(guard) == ["running"]
    assert runner.tell("finish") == "success"


def test_a_fork_has_a_connection_of_its_own(job: Any) -> None:
    runner = job()
    assert runner.tell("ask_in_a_fork") == [[runner.owner]] * 6


def test_a_job_whose_keeper_cannot_be_replaced_ends_before_its_lease_lapses(job: Any, guard: JobGuard) -> None:
    runner = job(ttl=ROOMY_TTL)
    runner.tell("lose_the_package")
    runner.tell("ignore_sigterm")
    died = Deaths(runner.pid, runner.tell("fork"), runner.tell("spawn"))
    os.kill(runner.keeper, signal.SIGKILL)
    assert runner.ended() == 137
    assert died.last() < lapses(guard, ROOMY_TTL)


@pytest.mark.parametrize("obedient", [True, False])
def test_a_job_whose_keepers_hang_from_the_beginning_ends_before_its_lease_lapses(
    job: Any, guard: JobGuard, obedient: bool
) -> None:
    runner = job(ttl=ROOMY_TTL)
    runner.tell("freeze_new_keepers")
    if not obedient:
        runner.tell("ignore_sigterm")
    died = Deaths(runner.pid, runner.tell("fork"), runner.tell("spawn"))
    os.kill(runner.keeper, signal.SIGKILL)
    eventually(lambda: runner.tell("keeper") != runner.keeper)
    assert runner.ended() == (-signal.SIGTERM if obedient else 137)
    assert died.last() < lapses(guard, ROOMY_TTL)


@pytest.mark.parametrize("boot", ["raise SystemExit(1)", "\0"], ids=["it fails", "none is begun"])
def test_it_is_told_to_stop_before_that(job: Any, boot: str) -> None:
    runner = job(ttl=ROOMY_TTL)
    runner.tell("lose_the_package", boot=boot)
    os.kill(runner.keeper, signal.SIGKILL)
    assert runner.ended() == -signal.SIGTERM


def test_a_job_whose_keeper_has_no_drivers_is_dead_before_its_lease_lapses(
    job: Any, guard: JobGuard, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor can its attempt be closed then."""
    runner = job(ttl=ROOMY_TTL, on_lease_lost="stop")
    runner.tell("lose_the_package", boot=f"import sys; sys.modules['psycopg'] = None; {handle._BOOT}")
    runner.tell("ignore_sigterm")
    died = Deaths(runner.pid)
    os.kill(runner.keeper, signal.SIGKILL)
    assert runner.ended() == -signal.SIGKILL
    assert died.last() < lapses(guard, ROOMY_TTL)
    take_over(guard).finish()
    assert outcomes(guard) == ["taken_over", "success"]
    said = capfd.readouterr().err
    assert "a renewal failed, trying again: import of psycopg halted" in said
    assert "it is taken over when its lease lapses (import of psycopg halted" in said


def test_a_job_stopped_for_a_moment_keeps_its_lease(job: Any, guard: JobGuard) -> None:
    ttl = 2 * TTL  # between the end of the pause and that of the trust, a busy machine needs time for a renewal
    runner = job(ttl=ttl)
    freeze(runner.pid)
    assert stays(lambda: runner.process.poll() is None, 0.4 * ttl)
    thaw(runner.pid)
    eventually(lambda: heartbeat(guard) > 0.8 * ttl, 2 * ttl)
    assert runner.tell("check") == "held"


# the job dies


def test_a_killed_job_is_closed_at_once_with_all_that_it_started(
    job: Any, guard: JobGuard, redis_client: redis.Redis
) -> None:
    runner = job()
    spawned, forked = runner.tell("spawn"), runner.tell("fork")
    os.kill(runner.pid, signal.SIGKILL)
    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)
    eventually(lambda: redis_client.get(lock_key(JOB)) is None, PATIENCE)
    eventually(lambda: not alive(runner.keeper), PATIENCE)
    assert not alive(spawned)
    assert not alive(forked)
    (run,) = guard.history(JOB)
    assert run.error is not None
    assert "died without finishing" in run.error
    lease = take_over(guard, wait=0)
    assert (lease.token, lease.attempt) == (2, 2)
    lease.finish()


def test_a_job_that_a_killed_job_had_started_is_closed_as_well(
    job: Any, guard: JobGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own keeper is not ended with it."""
    outer = job()
    monkeypatch.setenv("EXCLUSIVE_OWNER", outer.owner)
    inner = job(job="inner")
    os.kill(outer.pid, signal.SIGKILL)
    assert inner.ended() == -signal.SIGKILL
    eventually(lambda: [run.outcome for run in guard.history("inner")] == ["failed"], PATIENCE)


def test_a_keeper_survives_what_is_sent_to_its_jobs_group(job: Any, guard: JobGuard) -> None:
    runner = job()
    os.killpg(runner.pid, signal.SIGKILL)
    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)


def test_a_standby_runs_as_soon_as_the_runner_has_died(job: Any, start: Start, redis_url: str, database: str) -> None:
    runner = job()
    standby: list[JobProcess] = []
    waiter = threading.Thread(target=lambda: standby.append(start(redis_url, database, wait=PATIENCE)))
    waiter.start()
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: any(found["cmd"] == "blpop" for found in client.client_list()), PATIENCE)
    died = time.monotonic()
    os.kill(runner.pid, signal.SIGKILL)
    waiter.join(PATIENCE)
    assert time.monotonic() - died < LONG_TTL / 2
    assert standby[0].token == 2


# exactly once


def test_a_job_killed_between_its_commit_and_its_end_is_not_repeated(
    job: Any, guard: JobGuard, database: str, effects: Callable[[], list[int]]
) -> None:
    first = job()
    first.send("write", dsn=database, then_die=True)
    assert first.ended() == -signal.SIGKILL
    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)
    second = job()
    assert second.tell("write", dsn=database) == "was done"
    assert second.tell("finish") == "success"
    assert effects() == [1]


# the job freezes


def test_a_frozen_job_is_taken_over_and_can_change_nothing_afterwards(
    job: Any, guard: JobGuard, database: str, effects: Callable[[], list[int]]
) -> None:
    runner = job(ttl=2, on_lease_lost="raise")
    freeze(runner.pid)
    lease = take_over(guard)
    thaw(runner.pid)
    assert runner.tell("check").startswith("LeaseLost: ")
    assert runner.tell("write", dsn=database).startswith("LeaseLost: ")
    assert runner.tell("finish").startswith("StaleWrite: ")
    assert effects() == []
    lease.finish()
    assert outcomes(guard) == ["taken_over", "success"]


@pytest.mark.parametrize("successor_wrote", [True, False])
def test_a_frozen_node_doubles_nothing_even_if_it_is_told_nothing(
    job: Any, guard: JobGuard, database: str, effects: Callable[[], list[int]], successor_wrote: bool
) -> None:
    runner = job(ttl=2, on_lease_lost="warn")
    freeze(runner.keeper, runner.pid)
    lease = take_over(guard)
    assert lease.token == 2

    def succeed() -> bool:
        with psycopg.connect(database) as conn, lease.transaction(conn) as tx:
            tx.execute("INSERT INTO effect VALUES (2)")
        return tx.done

    if successor_wrote:
        assert succeed() is False
    thaw(runner.keeper, runner.pid)
    told = runner.tell("write", dsn=database)
    if successor_wrote:
        assert told.startswith("StaleWrite: ")
    else:
        assert succeed() is (told == "written")
    assert runner.tell("finish").startswith("StaleWrite: ")
    assert len(effects()) == 1
    lease.finish()
    assert outcomes(guard) == ["taken_over", "success"]
    assert {refusal.reason for refusal in guard.refusals(JOB)} == {"stale"}


def test_a_frozen_job_that_is_to_be_stopped_is_dead_before_its_lease_lapses(job: Any, guard: JobGuard) -> None:
    runner = job(on_lease_lost="stop", ttl=ROOMY_TTL)
    died = Deaths(runner.pid)
    freeze(runner.pid)
    assert runner.ended() == -signal.SIGKILL
    assert died.last() < lapses(guard, ROOMY_TTL)
    eventually(lambda: outcomes(guard) == ["failed"])


# C code holds the GIL, so that nobody looks after the keeper, and that is killed


@pytest.fixture
def lapsing(job: Any, guard: JobGuard) -> Callable[[str], tuple[JobProcess, Lease]]:
    """Such a job, which works on though its lease has lapsed, and the lease of who has taken over."""

    def begin(on_lease_lost: str) -> tuple[JobProcess, Lease]:
        runner = job(ttl=2, on_lease_lost=on_lease_lost)
        assert runner.tell("hold_the_gil_until_told") == "holding"
        os.kill(runner.keeper, signal.SIGKILL)
        lease = take_over(guard)
        assert runner.process.poll() is None
        runner.send("let go of it")
        return runner, lease

    return begin


def test_a_job_that_lost_its_keeper_while_it_held_the_gil_can_change_nothing_afterwards(
    lapsing: Any, guard: JobGuard, database: str, effects: Callable[[], list[int]]
) -> None:
    runner, lease = lapsing("warn")
    assert runner.answer() == "let go"
    with psycopg.connect(database) as conn, lease.transaction(conn) as tx:
        tx.execute("INSERT INTO effect VALUES (2)")
    assert runner.tell("write", dsn=database).startswith("StaleWrite: ")
    assert runner.tell("finish").startswith("StaleWrite: ")
    assert effects() == [2]
    lease.finish()
    assert outcomes(guard) == ["taken_over", "success"]


def test_a_job_that_lost_its_keeper_while_it_held_the_gil_is_ended_when_it_lets_go_of_it(
    lapsing: Any, guard: JobGuard
) -> None:
    runner, lease = lapsing("stop")
    assert runner.ended() == 137
    lease.finish()
    assert outcomes(guard) == ["taken_over", "success"]


# the lease is taken away


@pytest.mark.parametrize("obedient", [True, False])
def test_a_released_job_is_stopped_and_killed_if_it_does_not_listen(job: Any, guard: JobGuard, obedient: bool) -> None:
    runner = job(on_lease_lost="stop", ttl=TTL)
    if not obedient:
        runner.tell("ignore_sigterm")
    ended = guard.release(JOB, reason="node-a burns")
    assert ended is not None
    assert runner.ended(PATIENCE) == -(signal.SIGTERM if obedient else signal.SIGKILL)
    eventually(lambda: not alive(runner.keeper), PATIENCE)
    assert outcomes(guard) == ["released"]


@pytest.mark.parametrize("obedient", [True, False])
def test_a_released_job_with_a_fixed_lease_is_stopped_long_before_that_ends(
    job: Any, guard: JobGuard, connection: psycopg.Connection, obedient: bool
) -> None:
    """Nothing else would tell it: it asks for no renewal that could be refused."""
    runner = job(on_lease_lost="stop", ttl=LONG_TTL, renew=False)
    if not obedient:
        runner.tell("ignore_sigterm")
    assert guard.release(JOB, reason="node-a burns") is not None
    assert runner.ended(PATIENCE) == -(signal.SIGTERM if obedient else signal.SIGKILL)
    since = "SELECT extract(epoch FROM clock_timestamp() - finished_at)::float FROM exclusive.scheduled_job_run"
    ((took,),) = connection.execute(since).fetchall()
    assert took < 25, "10 s until it is told, 6 to end by itself, and some more where much else is going on"
    eventually(lambda: not alive(runner.keeper), PATIENCE)
    assert outcomes(guard) == ["released"]


def test_a_job_that_is_killed_with_its_lease_leaves_the_keeper_of_another_one_to_close_that(
    job: Any, guard: JobGuard
) -> None:
    runner = job(on_lease_lost="stop", ttl=TTL)
    runner.tell("ignore_sigterm")
    other = runner.tell("hold_another", job="other", run_key=TICK, ttl=LONG_TTL)
    assert guard.release(JOB, reason="node-a burns") is not None
    assert runner.ended(PATIENCE) == -signal.SIGKILL
    eventually(lambda: [run.outcome for run in guard.history("other")] == ["failed"], PATIENCE)
    eventually(lambda: not alive(other), PATIENCE)


def test_the_keeper_of_a_fixed_lease_rests_while_its_job_stops(job: Any) -> None:
    """Then its time to ask for the lease comes, which is lost."""
    runner = job(on_lease_lost="stop", ttl=LONG_TTL, renew=False, max_run_time=9.5)
    runner.tell("ignore_sigterm")
    eventually(lambda: runner.tell("check") != "held", PATIENCE)
    before = runner.tell("turns")
    assert stays(lambda: runner.tell("turns") < before + 20, 1.5)


def test_a_released_job_is_killed_though_its_keeper_freezes_after_telling_it(job: Any, guard: JobGuard) -> None:
    runner = job(on_lease_lost="stop", ttl=TTL)
    runner.tell("ignore_sigterm")
    guard.release(JOB, reason="node-a burns")
    eventually(lambda: runner.tell("check") != "held", PATIENCE)
    freeze(runner.keeper)
    assert runner.ended() == -signal.SIGKILL


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """Whoever writes into it waits for ever."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


def test_a_released_job_is_killed_though_nobody_reads_what_its_keeper_says(
    job: Any, guard: JobGuard, full_pipe: int
) -> None:
    """A reader of standard error that stands still must not hold the keeper up."""
    runner = job(on_lease_lost="stop", ttl=TTL, stderr=full_pipe)
    runner.tell("ignore_sigterm")
    guard.release(JOB, reason="node-a burns")
    assert runner.ended(PATIENCE) == -signal.SIGKILL


def test_a_killed_keeper_is_replaced_though_nobody_reads_what_the_job_logs(
    job: Any, guard: JobGuard, full_pipe: int
) -> None:
    """Each time: what was logged of the first one is waited for still when the next one dies."""
    runner = job(ttl=LONG_TTL, stderr=full_pipe)
    before = runner.keeper
    for _ in range(2):
        os.kill(before, signal.SIGKILL)
        before = eventually(lambda before=before: (now := runner.tell("keeper")) != before and now, PATIENCE)  # type: ignore[misc]
    assert runner.tell("finish") == "success"
    assert outcomes(guard) == ["success"]


def test_a_released_job_that_wants_to_know_is_told(job: Any, guard: JobGuard) -> None:
    runner = job(on_lease_lost="raise", ttl=TTL)
    guard.release(JOB, reason="node-a burns")
    said = eventually(lambda: (answer := runner.tell("check")) != "held" and answer, PATIENCE)
    assert "LeaseLost" in said
    assert "taken over or released" in said
    assert runner.process.poll() is None


def test_a_released_job_that_is_only_warned_goes_on_and_counts_for_nothing(job: Any, guard: JobGuard) -> None:
    runner = job(on_lease_lost="warn", ttl=TTL)
    guard.release(JOB, reason="node-a burns")
    eventually(lambda: not alive(runner.keeper), PATIENCE)
    assert runner.tell("check") == "held"
    assert runner.tell("finish").startswith("StaleWrite: ")
    assert outcomes(guard) == ["released"]


def test_a_job_past_its_max_run_time_is_stopped(job: Any, guard: JobGuard) -> None:
    runner = job(ttl=TTL, max_run_time=TTL - 1)
    assert runner.ended() == -signal.SIGTERM
    assert 0 < heartbeat(guard) < TTL, "renewed until then, and not after"
    # Its keeper closes it, so that nobody has to wait for the ttl.
    (attempt,) = eventually(lambda: [run for run in guard.history(JOB) if run.outcome == "failed"], PATIENCE)
    assert "past its max_run_time" in str(attempt.error)


def held_for(connection: psycopg.Connection) -> float:
    """Seconds since the attempt began, by the database's clock."""
    query = "SELECT extract(epoch FROM clock_timestamp() - started_at)::float FROM exclusive.scheduled_job_status"
    row = connection.execute(query).fetchone()
    assert row is not None
    return float(row[0])


def test_a_fixed_lease_ends_though_the_job_has_not(job: Any, guard: JobGuard, connection: psycopg.Connection) -> None:
    runner = job(ttl=ROOMY_TTL, renew=False, on_lease_lost="raise")
    assert runner.tell("check") == "held"
    said = eventually(lambda: (answer := runner.tell("check")) != "held" and answer, PATIENCE)
    assert 0.5 * ROOMY_TTL < held_for(connection) < ROOMY_TTL
    assert "its fixed time is over" in said
    assert heartbeat(guard) == 0
    assert isinstance(guard.admit(JOB, run_key=TICK), Busy)
    take_over(guard).finish()


def test_a_job_that_works_past_its_fixed_lease_is_dead_before_another_may_run(
    job: Any, connection: psycopg.Connection
) -> None:
    runner = job(ttl=ROOMY_TTL, renew=False, on_lease_lost="stop")
    runner.tell("ignore_sigterm")
    assert runner.ended() == -signal.SIGKILL
    assert 0.7 * ROOMY_TTL < held_for(connection) < ROOMY_TTL


def test_a_job_whose_renewals_fail_is_told_why(job: Any, connection: psycopg.Connection) -> None:
    runner = job(ttl=TTL, on_lease_lost="raise")
    connection.execute("ALTER SCHEMA exclusive RENAME TO away")
    said = eventually(lambda: (answer := runner.tell("check")) != "held" and answer, PATIENCE)
    assert "schema 'exclusive'" in said
    assert "isn't ready" in said


# Redis fails


def test_a_redis_that_forgot_everything_causes_no_second_run(
    job: Any, guard: JobGuard, redis_client: redis.Redis
) -> None:
    runner = job(ttl=2 * TTL)
    redis_client.flushdb()
    assert isinstance(guard.admit(JOB, run_key=TICK), Busy)
    assert redis_client.get(lock_key(JOB)) is None
    assert eventually(lambda: redis_client.get(lock_key(JOB)), PATIENCE) == runner.owner
    assert runner.tell("check") == "held"


def test_a_redis_that_is_away_for_a_while_does_not_stop_a_job(
    start: Start, database: str, tmp_path: Path, guard: JobGuard
) -> None:
    server = EmbeddedValkey(tmp_path / "valkey", durable=False).start()
    try:
        runner = start(server.url(), database, ttl=TTL)
        server.kill()
        eventually(lambda: heartbeat(guard) > TTL, PATIENCE)
        assert runner.tell("check") == "held"
        server.start()
        with redis.Redis.from_url(server.url(), decode_responses=True) as client:
            assert eventually(lambda: client.get(lock_key(JOB)), PATIENCE) == runner.owner
        server.kill()
        assert runner.tell("finish", timeout=30) == "success"
        assert outcomes(guard) == ["success"]
    finally:
        server.remove()


# Postgres fails


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    try:
        yield server.start()
    finally:
        send_all(server, signal.SIGCONT)
        server.remove()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_job_cut_off_from_postgres_is_dead_before_its_lease_can_lapse(
    start: Start, redis_url: str, own_postgres: EmbeddedPostgres, how: str
) -> None:
    dsn = own_postgres.create_database("exclusive")
    upgrade(dsn)
    runner = start(redis_url, dsn, ttl=ROOMY_TTL)
    runner.tell("ignore_sigterm")
    with JobGuard(redis=redis_url, postgres=dsn) as guard:
        wait_for_renewals(guard, 1)
    died = Deaths(runner.pid)
    cut_off = time.time()  # the last renewal was sent before this moment
    if how == "killed":
        own_postgres.kill()
    else:
        send_all(own_postgres, signal.SIGSTOP)
    assert runner.ended() == -signal.SIGKILL
    assert 0.4 * ROOMY_TTL < died.last() - cut_off < ROOMY_TTL
    if how == "frozen":
        send_all(own_postgres, signal.SIGCONT)
    else:
        own_postgres.start()
    with JobGuard(redis=redis_url, postgres=dsn) as guard:
        take_over(guard).finish()
        ended, after = outcomes(guard)
        # Closed by its keeper, if Postgres was back soon enough for that.
        assert ended in ("taken_over", "failed")
        assert after == "success"


def test_a_short_hiccup_of_postgres_does_not_stop_a_job(
    start: Start, redis_url: str, own_postgres: EmbeddedPostgres
) -> None:
    dsn = own_postgres.create_database("exclusive")
    upgrade(dsn)
    runner = start(redis_url, dsn, ttl=2 * TTL)
    with JobGuard(redis=redis_url, postgres=dsn) as guard:
        wait_for_renewals(guard, 1)
        own_postgres.kill()
        own_postgres.start()
        wait_for_renewals(guard, 1)
        assert runner.tell("finish") == "success"
        assert outcomes(guard) == ["success"]
