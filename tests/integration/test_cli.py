"""The command line as cron sees it: real processes, real servers, and never a trace of Airflow."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import psutil
import psycopg
import pytest
import redis

from airflow_exclusive import Admitted, JobGuard
from airflow_exclusive.cli.run import latest_tick, run_guarded
from airflow_exclusive.core.admission import Attempt
from airflow_exclusive.core.settings import LeaseSettings
from tests.support.waiting import eventually

PATIENCE = 30
"""Seconds until an event that must come is given up on; nothing is expected to take so long."""
JOB = "备份 'daily' %s"
TICK = "2013-01-02T00:00:00Z"
NOT_AIRFLOW = "raise ImportError(open({path!r}, 'a').write(__name__) and 'the command line must not need Airflow')"

Done = subprocess.CompletedProcess[str]


class Cli:
    """`airflow-exclusive` in an environment of its own; whatever is still running at the end is killed."""

    def __init__(self, folder: Path, redis_url: str, dsn: str) -> None:
        self.folder, self.redis_url, self.dsn = folder, redis_url, dsn
        self.airflow_imported = folder / "airflow-imported"
        trap = folder / "trap" / "airflow"
        trap.mkdir(parents=True)
        (trap / "__init__.py").write_text(NOT_AIRFLOW.format(path=str(self.airflow_imported)))
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "PYTHONPATH": str(trap.parent),
            "EXCLUSIVE_REDIS_URL": redis_url,
            "EXCLUSIVE_POSTGRES_DSN": dsn,
        }
        self.guard = JobGuard(redis=redis_url, postgres=dsn)
        self._started: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: str, out: int | IO[str] = subprocess.PIPE, **environment: str) -> Done:
        options = {**self._options(environment), "stdout": out}
        return subprocess.run(self._command(arguments), **options, timeout=2 * PATIENCE, check=False)

    def start(self, *arguments: str, ignores: int | None = None, **environment: str) -> subprocess.Popen[str]:
        """Whoever runs the tests may ignore signals itself (nohup)."""
        ignored = [] if ignores is None else [f"--ignore-signal={signal.Signals(ignores).name}"]
        command = ["env", "--default-signal", *ignored, *self._command(arguments)]
        process = subprocess.Popen(command, **self._options(environment), start_new_session=True)
        self._started.append(process)
        return process

    def run(self, *arguments: str, run_key: str = TICK) -> Done:
        """`run JOB` for a tick; `arguments` are options, `--` and the command."""
        return self("run", JOB, "--run-key", run_key, *arguments)

    def start_run(self, *arguments: str, run_key: str = TICK, ignores: int | None = None) -> subprocess.Popen[str]:
        return self.start("run", JOB, "--run-key", run_key, *arguments, ignores=ignores)

    def attempts(self, job: str = JOB) -> list[Attempt]:
        """Oldest first."""
        return list(reversed(self.guard.history(job)))

    def outcomes(self) -> list[str]:
        return [attempt.outcome for attempt in self.attempts()]

    def locks(self) -> list[bytes]:
        with redis.Redis.from_url(self.redis_url) as client:
            return [key for key in client.keys("lock:*") if not key.endswith(b":wake")]

    def pid(self, name: str) -> int:
        """What a command wrote into this file, once it has."""
        path = self.folder / name
        return int(eventually(lambda: path.exists() and path.read_text().strip(), timeout=PATIENCE))

    def close(self) -> None:
        self._kill_all_that_was_started()
        for process in self._started:
            process.communicate()
        self.guard.close()

    def _kill_all_that_was_started(self) -> None:
        """Commands and their children too: whoever has this test's folder as its home."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.folder):
                    process.kill()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "airflow_exclusive.cli", *arguments]

    def _options(self, environment: dict[str, str]) -> dict[str, Any]:
        return {
            "env": {**self.environment, **environment},
            "cwd": self.folder,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }


@pytest.fixture
def cli(tmp_path: Path, redis_url: str, database: str) -> Iterator[Cli]:
    cli = Cli(tmp_path, redis_url, database)
    yield cli
    cli.close()
    assert not cli.airflow_imported.exists()


def works(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    return bool(eventually(lambda: not works(pid), timeout=PATIENCE))


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def one_line(done: Done) -> str:
    """What went wrong, told in one line to whoever reads stderr."""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("airflow-exclusive: ")
    return line


# init


def test_init_makes_the_tables_and_may_be_repeated(tmp_path: Path, redis_url: str, empty_database: str) -> None:
    cli = Cli(tmp_path, redis_url, empty_database)
    first, second = cli("init"), cli("init")
    cli.close()

    assert (first.returncode, second.returncode) == (0, 0)
    assert "applied status 0001, effects 0001" in first.stdout
    assert second.stdout == "schema exclusive: up to date\n"
    assert tables(empty_database) >= {"scheduled_job_status", "scheduled_job_run"}
    assert not cli.airflow_imported.exists()


def test_init_on_two_nodes_at_once_applies_everything_once(tmp_path: Path, redis_url: str, empty_database: str) -> None:
    cli = Cli(tmp_path, redis_url, empty_database)
    told = [ended(process) for process in [cli.start("init"), cli.start("init")]]
    cli.close()

    assert [done.returncode for done in told] == [0, 0], told
    assert sorted("applied" in done.stdout for done in told) == [False, True]


def test_init_for_effects_alone_makes_no_status_tables(tmp_path: Path, redis_url: str, empty_database: str) -> None:
    cli = Cli(tmp_path, redis_url, empty_database)
    done = cli("init", "--effects", "--schema", "marks")
    cli.close()

    assert done.stdout == "schema marks: applied effects 0001\n"
    assert tables(empty_database, "marks").isdisjoint({"scheduled_job_status", "scheduled_job_run"})


def tables(dsn: str, schema: str = "exclusive") -> set[str]:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema])
        return {name for (name,) in rows}


# run: exit status, what is handed over, what is recorded


@pytest.mark.parametrize(
    ("script", "status", "outcome"),
    [("true", 0, "success"), ("exit 7", 7, "failed"), ("kill -KILL $$", 137, "failed")],
)
def test_the_exit_status_is_the_commands_and_is_recorded(cli: Cli, script: str, status: int, outcome: str) -> None:
    assert cli.run("--", "sh", "-c", script).returncode == status
    (attempt,) = cli.attempts()
    assert (attempt.outcome, attempt.run_key) == (outcome, TICK)
    assert attempt.error == (f"exit status {status}" if status else None)
    assert cli.locks() == []


def test_a_tick_that_is_done_is_no_failure_and_runs_nothing(cli: Cli) -> None:
    cli.run("--", "true")
    again = cli.run("--", "touch", "ran")
    assert again.returncode == 0
    assert "already done" in one_line(again)
    assert not (cli.folder / "ran").exists()


def test_a_job_that_somebody_else_runs_is_busy(cli: Cli) -> None:
    with cli.guard.hold(JOB, run_key=TICK):
        refused = cli.run("--", "touch", "ran", run_key="2013-01-03T00:00:00Z")
    assert refused.returncode == 75
    assert one_line(refused).startswith(f"airflow-exclusive: busy: {JOB} runs tick {TICK} on ")
    assert not (cli.folder / "ran").exists()


@pytest.mark.parametrize(("command", "status"), [("./no-such-program", 127), ("./not-executable", 126)])
def test_a_command_that_cannot_start_is_a_failure_that_locks_nobody_out(cli: Cli, command: str, status: int) -> None:
    (cli.folder / "not-executable").write_text("text")
    done = cli.run("--", command)
    assert done.returncode == status
    assert f"can't start '{command}'" in done.stderr
    assert "Traceback" not in done.stderr
    (attempt,) = cli.attempts()
    assert attempt.outcome == "failed"
    assert f"can't start '{command}'" in attempt.error
    assert cli.locks() == []


def test_the_command_is_told_about_its_lease_on_top_of_the_environment(cli: Cli) -> None:
    done = cli("run", JOB, "--run-key", TICK, "--", "env", MINE="as it was")
    told = dict(line.split("=", 1) for line in done.stdout.splitlines())
    (attempt,) = cli.attempts()
    assert told["MINE"] == "as it was"
    assert {name: value for name, value in told.items() if name.startswith("EXCLUSIVE_")} == {
        "EXCLUSIVE_REDIS_URL": cli.redis_url,
        "EXCLUSIVE_POSTGRES_DSN": cli.dsn,
        "EXCLUSIVE_JOB": JOB,
        "EXCLUSIVE_RUN_KEY": TICK,
        "EXCLUSIVE_TOKEN": "1",
        "EXCLUSIVE_GENERATION": "1",
        "EXCLUSIVE_OWNER": attempt.owner,
        "EXCLUSIVE_SCHEMA": "exclusive",
    }


def test_input_and_output_pass_through_untouched(cli: Cli) -> None:
    data = bytes(range(256)) * 1000
    script = "cat; printf 'to stderr \\377' >&2"
    done = subprocess.run(
        [sys.executable, "-m", "airflow_exclusive.cli", "run", JOB, "--", "sh", "-c", script],
        env=cli.environment,
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == data
    assert done.stderr.endswith(b"to stderr \xff")


def test_the_commands_own_options_are_left_to_it(cli: Cli) -> None:
    done = cli("run", JOB, "--", "sh", "-c", 'echo "$@"', "sh", "--run-key", "x", "--help")
    assert done.stdout == "--run-key x --help\n"


def test_without_a_tick_every_run_is_its_own(cli: Cli) -> None:
    assert [cli("run", JOB, "--", "echo", "ran").stdout for _ in range(2)] == ["ran\n", "ran\n"]
    assert len({attempt.run_key for attempt in cli.attempts()}) == 2


@pytest.mark.parametrize("asked", ["25T00:30", "25T01:29", "25T01:30", "25T05:00", "26T01:29"])
def test_an_hour_that_comes_twice_is_one_tick(asked: str) -> None:
    now = datetime.fromisoformat(f"2026-10-{asked}:00+00:00")
    assert latest_tick("30 2 * * *", "Europe/Berlin", now) == "2026-10-25T01:30:00Z"


@pytest.mark.parametrize("asked", ["29T01:00", "29T01:30", "29T05:00", "30T00:29"])
def test_an_hour_that_does_not_come_is_one_tick(asked: str) -> None:
    now = datetime.fromisoformat(f"2026-03-{asked}:00+00:00")
    assert latest_tick("30 2 * * *", "Europe/Berlin", now) == "2026-03-29T01:30:00Z"


@pytest.mark.parametrize("asked", ["01:00", "01:20", "05:00"])
def test_several_due_times_of_an_hour_that_does_not_come_are_one_tick(asked: str) -> None:
    now = datetime.fromisoformat(f"2026-03-29T{asked}:00+00:00")
    assert latest_tick("*/15 2 * * *", "Europe/Berlin", now) == "2026-03-29T01:00:00Z"


@pytest.mark.parametrize("asked", ["15:30", "15:45", "23:00"])
def test_half_an_hour_that_does_not_come_is_one_tick(asked: str) -> None:
    now = datetime.fromisoformat(f"2026-10-03T{asked}:00+00:00")
    assert latest_tick("15 2 * * *", "Australia/Lord_Howe", now) == "2026-10-03T15:45:00Z"


@pytest.mark.parametrize(("asked", "tick"), [("00:31", "00:30"), ("01:31", "01:30"), ("02:31", "02:30")])
def test_what_is_due_every_hour_is_due_in_both(asked: str, tick: str) -> None:
    now = datetime.fromisoformat(f"2026-10-25T{asked}:00+00:00")
    assert latest_tick("30 * * * *", "Europe/Berlin", now) == f"2026-10-25T{tick}:00Z"


def test_the_tick_by_cron_is_the_last_due_time_in_its_time_zone(cli: Cli) -> None:
    cli("run", JOB, "--cron", "30 2 * * *", "--timezone", "Asia/Kolkata", "--", "true")  # no summer time: 21:00 UTC
    (attempt,) = cli.attempts()
    due = datetime.fromisoformat(attempt.run_key.replace("Z", "+00:00"))
    assert (due.hour, due.minute, due.second) == (21, 0, 0)
    assert timedelta(0) <= datetime.now(timezone.utc) - due < timedelta(days=1, minutes=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cron", "0 2 * * *", "--run-key", TICK], "--cron='0 2 * * *': can't be given together with --run-key"),
        (["--cron", "every day"], "--cron='every day': is no cron expression"),
        (["--cron", "0 2 * * *", "--timezone", "Mars/Base"], "--timezone='Mars/Base': must be a name such as"),
        (["--ttl", "0.5"], "--ttl=0.5: must be between 1 and"),
        (["--ttl", "nan"], "--ttl=nan: must be a number of seconds"),
        (["--wait", "-1"], "--wait=-1.0: must be between 0"),
        (["--expected-duration", "30"], "--expected-duration=30.0: only counts with --no-renew"),
        (["--on-redis-down", "pray"], "--on-redis-down='pray': must be one of 'fail', 'postgres'"),
        (["--run-key", "a\nb"], "--run-key='a\\nb': has the control character"),
        (["--run-key", "a\udcffb"], "--run-key='a\\udcffb': has the undecodable character"),
        (["--max-run-time", "0"], "--max-run-time=0.0: must be between 1 and"),
        (["--schema", 'x"; DROP'], "--schema='x\"; DROP': must be a plain name"),
    ],
)
def test_an_option_that_cannot_work_is_refused_before_anything_is_taken(
    cli: Cli, options: list[str], says: str
) -> None:
    done = cli("run", JOB, *options, "--", "touch", "ran")
    assert done.returncode == 2
    assert says in one_line(done)
    assert not (cli.folder / "ran").exists()
    assert cli.locks() == []
    assert cli.guard.status() == []


def test_a_command_cannot_be_told_of_a_lost_lease_but_by_a_signal(cli: Cli) -> None:
    done = cli("run", JOB, "--on-lease-lost", "raise", "--", "touch", "ran")
    assert done.returncode == 2
    assert "'stop', 'warn'" in done.stderr


# waiting, repeating


def test_who_waits_is_admitted_when_the_holder_has_ended(cli: Cli) -> None:
    with cli.guard.hold(JOB, run_key=TICK):
        waiting = cli.start_run("--wait", str(PATIENCE), "--", "echo", "ran", run_key="2013-01-03T00:00:00Z")
        eventually(lambda: sleeps_at_the_gate(cli), timeout=PATIENCE)
    done = ended(waiting)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert cli.outcomes() == ["success", "success"]


def test_who_waits_does_not_repeat_what_the_holder_has_done(cli: Cli) -> None:
    with cli.guard.hold(JOB, run_key=TICK):
        waiting = cli.start_run("--wait", "inf", "--", "echo", "ran")
        eventually(lambda: sleeps_at_the_gate(cli), timeout=PATIENCE)
    done = ended(waiting)
    assert (done.returncode, done.stdout) == (0, "")
    assert "already done" in one_line(done)


def test_who_has_waited_in_vain_is_told_that_the_job_is_busy(cli: Cli) -> None:
    with cli.guard.hold(JOB, run_key=TICK):
        began = time.monotonic()
        assert cli.run("--wait", "1", "--", "true").returncode == 75
        assert time.monotonic() - began >= 1


def test_who_is_told_to_wait_no_longer_leaves_nothing_behind(cli: Cli) -> None:
    with cli.guard.hold(JOB, run_key=TICK) as lease:
        waiting = cli.start_run("--wait", "inf", "--", "touch", "ran")
        eventually(lambda: sleeps_at_the_gate(cli), timeout=PATIENCE)
        waiting.send_signal(signal.SIGTERM)
        assert ended(waiting).returncode != 0
        lease.ensure_held()
    assert cli.outcomes() == ["success"]
    assert cli.locks() == []
    assert not (cli.folder / "ran").exists()


def sleeps_at_the_gate(cli: Cli) -> bool:
    """Whether somebody waits in the cli's Redis database for the job to be released."""
    with redis.Redis.from_url(cli.redis_url) as client:
        database = str(client.connection_pool.connection_kwargs.get("db", 0))
        return any(seen["cmd"] == "blpop" and seen["db"] == database for seen in client.client_list())


def test_a_rerun_is_a_new_generation_of_the_tick(cli: Cli) -> None:
    show = ["--", "sh", "-c", "echo $EXCLUSIVE_GENERATION"]
    assert [cli.run(*show).stdout, cli.run("--rerun", *show).stdout, cli.run(*show).stdout] == ["1\n", "2\n", ""]
    assert [(one.generation, one.outcome) for one in cli.attempts()] == [(1, "success"), (2, "success")]


# signals, death


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_goes_to_the_whole_group_of_the_command(cli: Cli, number: int) -> None:
    process = cli.start_run("--", sys.executable, "-c", GROUP)
    parent, child = cli.pid("parent"), cli.pid("child")

    process.send_signal(number)
    done = ended(process)

    assert done.returncode == 128 + number
    assert gone(parent)
    assert gone(child)
    (attempt,) = cli.attempts()
    assert (attempt.outcome, attempt.error) == ("failed", f"exit status {128 + number}")
    assert cli.locks() == []


# Not a shell: that would have its background jobs ignore SIGINT. And Python's own SIGINT is an exception.
GROUP = """
import os, signal, subprocess, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_DFL)
if sys.argv[1:]:
    Path("child").write_text(str(os.getpid()))
else:
    subprocess.Popen([sys.executable, "-c", sys.orig_argv[-1], "child"])
    Path("parent").write_text(str(os.getpid()))
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_is_so_by_the_command_too(cli: Cli, number: int) -> None:
    process = cli.start_run("--", "sh", "-c", SLOW, ignores=number)
    command = cli.pid("pid")

    process.send_signal(number)
    os.killpg(command, number)
    (cli.folder / "go").touch()

    assert ended(process).returncode == 0
    assert cli.outcomes() == ["success"]


def test_a_signal_after_the_command_has_ended_leaves_its_success_to_be_recorded(
    cli: Cli, database: str, connection: psycopg.Connection
) -> None:
    process = cli.start_run("--", "sh", "-c", SLOW)
    cli.pid("pid")
    ends = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%finish_attempt%'"

    with psycopg.connect(database) as others:
        others.execute("SELECT FROM exclusive.scheduled_job_status FOR UPDATE")
        (cli.folder / "go").touch()
        eventually(lambda: connection.execute(ends).rowcount, timeout=PATIENCE)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            process.send_signal(number)
        others.rollback()

    assert ended(process).returncode == 0
    assert cli.outcomes() == ["success"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_while_it_asks_leaves_no_lease_behind(
    cli: Cli, database: str, connection: psycopg.Connection, number: int
) -> None:
    cli.run("--", "true", run_key="2013-01-01T00:00:00Z")
    waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with psycopg.connect(database) as others:
        others.execute("LOCK TABLE exclusive.scheduled_job_run IN ACCESS EXCLUSIVE MODE")
        asking = cli.start_run("--no-renew", "--expected-duration", "3600", "--", "touch", "ran")
        eventually(lambda: connection.execute(waits, ["%claim_attempt%"]).rowcount, timeout=PATIENCE)
        asking.send_signal(number)
        eventually(
            lambda: asking.poll() is not None or connection.execute(waits, ["%withdrawn%"]).rowcount, timeout=PATIENCE
        )
        others.rollback()

    done = ended(asking)
    assert done.returncode == 128 + number
    assert f"told to end by {signal.Signals(number).name}" in one_line(done)
    assert cli.locks() == []
    assert cli.run("--", "echo", "next").stdout == "next\n"
    assert not (cli.folder / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_is_ignored_is_so_while_it_asks(cli: Cli, number: int) -> None:
    with cli.guard.hold(JOB, run_key="2013-01-01T00:00:00Z"):
        waiting = cli.start_run("--wait", "inf", "--", "echo", "ran", ignores=number)
        eventually(lambda: sleeps_at_the_gate(cli), timeout=PATIENCE)
        waiting.send_signal(number)
    done = ended(waiting)
    assert (done.returncode, done.stdout) == (0, "ran\n")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_between_claim_and_command_ends_what_has_begun(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before there is a keeper the claim is given back; after that it is the command that is told to end."""
    claim, admit = cli.guard.statuses.claim, cli.guard.admit

    def told_when_claimed(*args: Any) -> Any:
        answer = claim(*args)
        signal.raise_signal(signal.SIGTERM)
        return answer

    def told_when_admitted(*args: Any, **options: Any) -> Any:
        answer = admit(*args, **options)
        signal.raise_signal(signal.SIGTERM)
        return answer

    if moment == "before":
        monkeypatch.setattr(cli.guard.statuses, "claim", told_when_claimed)
    else:
        monkeypatch.setattr(cli.guard, "admit", told_when_admitted)
    handler = signal.getsignal(signal.SIGTERM)
    command = ["sleep", "300"]
    status = run_guarded(cli.guard, JOB, command, run_key=TICK, wait=0, rerun=False, settings=LeaseSettings())
    assert status == 128 + signal.SIGTERM
    assert "running" not in cli.outcomes()
    assert cli.locks() == []
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_command_that_handles_its_signal_decides_on_the_status(cli: Cli) -> None:
    process = cli.start_run("--", "sh", "-c", "trap 'exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done")
    cli.pid("pid")
    process.send_signal(signal.SIGTERM)
    assert ended(process).returncode == 0
    assert cli.outcomes() == ["success"]


STUBBORN = "trap '' TERM INT HUP; sleep 300 & echo $! > child; echo $$ > pid; while :; do sleep 0.1; done"


SLOW = "echo $$ > pid; while [ ! -e go ]; do sleep 0.05; done"


def test_a_lost_lease_ends_the_whole_group_even_if_it_ignores_sigterm(cli: Cli) -> None:
    process = cli.start_run("--ttl", "6", "--", "sh", "-c", STUBBORN)
    command, child = cli.pid("pid"), cli.pid("child")

    cli.guard.release(JOB, reason="by hand")
    done = ended(process)

    assert done.returncode == 74
    assert gone(command)
    assert gone(child)
    assert "Traceback" not in done.stderr
    assert cli.outcomes() == ["released"]
    assert [refusal.reason for refusal in cli.guard.refusals(JOB)] == ["stale"]
    assert cli.run("--", "true").returncode == 0


def test_a_command_that_obeys_a_lost_lease_is_not_waited_for_any_longer(cli: Cli) -> None:
    process = cli.start_run("--ttl", "9", "--", "sh", "-c", "echo $$ > pid; exec sleep 300")
    command = cli.pid("pid")

    cli.guard.release(JOB, reason="by hand")
    gone(command)
    began = time.monotonic()
    done = ended(process)

    assert done.returncode == 74
    assert time.monotonic() - began < 1, "the grace before SIGKILL is for those who still run"


def test_a_command_that_is_only_to_be_warned_counts_if_nobody_took_over(cli: Cli) -> None:
    process = cli.start_run("--ttl", "3", "--max-run-time", "1", "--on-lease-lost", "warn", "--", "sh", "-c", SLOW)
    cli.pid("pid")
    eventually(lambda: cli.guard.status(JOB)[0].lapsed, timeout=30)
    (cli.folder / "go").touch()

    assert ended(process).returncode == 0
    assert cli.outcomes() == ["success"]


@pytest.mark.parametrize("lease", [["--ttl", "3"], ["--ttl", "120"], ["--no-renew", "--expected-duration", "100"]])
def test_past_its_run_time_the_command_is_ended(cli: Cli, lease: list[str]) -> None:
    began = time.monotonic()
    done = cli.run(*lease, "--max-run-time", "1", "--", "sleep", "300")
    assert done.returncode == 74
    assert time.monotonic() - began < 60, "as soon as it is over, not when the lease would have been renewed or ended"
    (attempt,) = cli.attempts()
    assert attempt.outcome == "failed"
    assert str(attempt.error).startswith("the lease was lost: the job is past its max_run_time")


def test_a_killed_guard_takes_its_command_along_and_the_next_run_need_not_wait(cli: Cli) -> None:
    process = cli.start_run("--ttl", "300", "--", "sh", "-c", STUBBORN)
    command, child = cli.pid("pid"), cli.pid("child")

    process.kill()

    assert gone(command)
    assert gone(child)
    eventually(lambda: cli.outcomes() == ["failed"] and not cli.locks(), timeout=PATIENCE)
    assert cli.run("--", "true").returncode == 0
    first, second = cli.attempts()
    assert "died without finishing" in str(first.error)
    assert (second.outcome, second.attempt) == ("success", 2)


# what the command does exactly once


TOTALS = """
import os, psycopg
from airflow_exclusive import inherited_lease
with psycopg.connect(os.environ["EXCLUSIVE_POSTGRES_DSN"]) as conn:
    with inherited_lease().transaction(conn, step="totals") as tx:
        tx.execute("INSERT INTO public.totals VALUES (1)")
    print("was done" if tx.done else "written")
raise SystemExit(int(os.environ.get("THEN", 0)))
"""


def test_the_commands_transaction_counts_once_however_often_it_is_tried(cli: Cli) -> None:
    with psycopg.connect(cli.dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.totals (n int)")
        totals = ("run", JOB, "--run-key", TICK, "--", sys.executable, "-c", TOTALS)
        tries = [cli(*totals, THEN="1"), cli(*totals)]
        rerun = cli("run", JOB, "--run-key", TICK, "--rerun", "--", sys.executable, "-c", TOTALS)

        assert [(done.stdout, done.returncode) for done in tries] == [("written\n", 1), ("was done\n", 0)]
        assert rerun.stdout == "written\n", "a generation that was asked for writes anew"
        assert conn.execute("SELECT count(*) FROM public.totals").fetchone() == (2,)


def test_without_a_lease_the_commands_transaction_says_what_is_missing(cli: Cli) -> None:
    told = subprocess.run(
        [sys.executable, "-c", TOTALS], env=cli.environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "LeaseLost: EXCLUSIVE_JOB isn't set: this process was not started under a lease" in told.stderr


# status, history, release


def test_the_status_of_a_job_as_table_and_as_json(cli: Cli) -> None:
    cli.run("--", "true")
    (row,) = cli.guard.status(JOB)
    table, (told,) = cli("status", JOB), json.loads(cli("status", JOB, "--json").stdout)

    assert table.returncode == 0
    assert told["job_name"] == JOB
    assert told["status"] == "success"
    assert told["fencing_token"] == 1
    assert told["lapsed"] is False
    assert told.keys() == vars(row).keys()
    assert datetime.fromisoformat(told["last_run_at"]) == row.last_run_at.replace(microsecond=0)  # type: ignore[union-attr]
    shown = [JOB, "success", told["last_run_at"], TICK, told["node_id"]]
    assert [text for text in shown if text not in table.stdout] == []


def test_the_status_of_all_jobs_is_by_name(cli: Cli) -> None:
    for job in ("b", "a"):
        cli("run", job, "--", "true")
    assert [row["job_name"] for row in json.loads(cli("status", "--json").stdout)] == ["a", "b"]


def test_an_unknown_job_has_no_status(cli: Cli) -> None:
    asked = cli("status", "never", "--json")
    assert (asked.returncode, json.loads(asked.stdout)) == (1, [])
    assert one_line(asked) == "airflow-exclusive: job 'never' has never run here"


@pytest.mark.parametrize(
    "question",
    [
        ["status", "a\udcff"],
        ["history", "a\udcff"],
        ["history", JOB, "--run-key", "a\udcff"],
        ["history", "a\udcff", "--refusals"],
        ["release", "a\udcff", "--reason", "node-a burns"],
    ],
    ids=" ".join,
)
def test_a_question_about_what_nobody_can_have_run_is_refused(cli: Cli, question: list[str]) -> None:
    asked = cli(*question)
    assert asked.returncode == 2
    assert r"='a\udcff': has the undecodable character" in one_line(asked)


def test_the_history_of_a_job_newest_first(cli: Cli) -> None:
    cli.run("--", "sh", "-c", "exit 7")
    cli.run("--", "true")
    newest, oldest = cli.guard.history(JOB)
    table, told = cli("history", JOB), json.loads(cli("history", JOB, "--json").stdout)

    assert [one["owner"] for one in told] == [newest.owner, oldest.owner]
    assert told[0].keys() == vars(newest).keys()
    assert [one["error"] for one in told] == [None, "exit status 7"]
    lines = [line for line in table.stdout.splitlines() if TICK in line]
    assert ["success" in line for line in lines] == [True, False]
    assert "exit status 7" in lines[1]
    assert len(json.loads(cli("history", JOB, "--json", "--limit", "1").stdout)) == 1
    assert json.loads(cli("history", JOB, "--json", "--run-key", "another").stdout) == []


def test_nothing_is_cut_off_on_a_narrow_terminal(cli: Cli) -> None:
    """Two ticks that only differ in their ends would look the same."""
    cli.run("--", "true")
    table = cli("history", JOB, FORCE_COLOR="1", COLUMNS="60").stdout
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", table).splitlines())) <= 60
    assert "…" not in table


def test_the_history_knows_who_was_refused(cli: Cli) -> None:
    with cli.guard.hold(JOB, run_key=TICK):
        cli.run("--", "true")
    (told,) = json.loads(cli("history", JOB, "--refusals", "--json").stdout)
    assert (told["run_key"], told["reason"]) == (TICK, "busy")
    assert told["detail"] in cli("history", JOB, "--refusals").stdout


def test_a_release_ends_the_attempt_frees_the_lock_and_keeps_the_reason(cli: Cli) -> None:
    admitted = cli.guard.admit(JOB, run_key=TICK)
    assert isinstance(admitted, Admitted)
    released = cli("release", JOB, "--reason", "node is on fire", "--json")
    admitted.lease._keeper.stop()

    (told,) = json.loads(released.stdout)
    assert (told["outcome"], told["owner"]) == ("released", admitted.lease.owner)
    assert "node is on fire" in told["error"]
    assert cli.locks() == []
    assert cli.run("--", "true").returncode == 0


def test_nobody_to_release_is_no_error(cli: Cli) -> None:
    asked = cli("release", JOB, "--reason", "just in case")
    assert (asked.returncode, asked.stdout) == (0, f"{JOB}: nobody was running\n")
    assert json.loads(cli("release", JOB, "--reason", "just in case", "--json").stdout) == []


def test_a_release_of_a_token_leaves_alone_who_has_come_after_it(cli: Cli) -> None:
    with cli.guard.hold(JOB, run_key=TICK) as lease:
        asked = cli("release", JOB, "--reason", "it hung", "--token", str(lease.token - 1))
        assert (asked.returncode, asked.stdout) == (0, f"{JOB}: nobody was running with token {lease.token - 1}\n")
        lease.ensure_held()


@pytest.mark.parametrize("options", [[], ["--reason", " "]])
def test_a_release_without_a_reason_is_refused(cli: Cli, options: list[str]) -> None:
    with cli.guard.hold(JOB, run_key=TICK) as lease:
        asked = cli("release", JOB, *options)
        assert asked.returncode == 2
        assert "--reason" in asked.stderr
        assert [one.outcome for one in cli.guard.history(JOB)] == ["running"]
        lease.ensure_held()


def test_another_schema_is_another_world(cli: Cli) -> None:
    assert cli("init", EXCLUSIVE_SCHEMA="other").returncode == 0
    run = ("run", JOB, "--run-key", TICK, "--schema", "other", "--", "sh", "-c", "echo $EXCLUSIVE_SCHEMA")
    assert cli(*run).stdout == "other\n"
    assert cli.attempts() == []
    assert len(json.loads(cli("history", JOB, "--json", EXCLUSIVE_SCHEMA="other").stdout)) == 1


# servers that aren't there


SECRET = "s3cr3t"


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port of loopback that is taken, so nobody else gets it, and at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "address", "status", "says"),
    [
        ("REDIS_URL", f"http://me:{SECRET}@127.0.0.1/0", 2, "must be a URL that starts with redis://"),
        ("REDIS_URL", f"redis://me:{SECRET}@127.0.0.1:port/0", 2, "--redis='redis://me:***@127.0.0.1:port/0': "),
        ("REDIS_URL", "redis://[::1", 2, "is no address: "),
        ("REDIS_URL", f"redis://me:{SECRET}/p@127.0.0.1/0", 2, "write % @ : / ? # [ ] in the password"),
        ("REDIS_URL", f"redis://me:{SECRET}@127.0.0.1/zero", 2, "must end in the number of a database, not 'zero'"),
        ("REDIS_URL", f"redis://me:{SECRET}@127.0.0.1/0?retries=5", 2, "can't be used: "),
        ("REDIS_URL", f"redis://me:{SECRET}@127.0.0.1/0?socket_timeout=soon", 2, "can't be used: "),
        ("POSTGRES_DSN", f"mysql://me:{SECRET}@127.0.0.1/x", 2, "must be a postgresql:// URL"),
        ("POSTGRES_DSN", f"postgresql://me:{SECRET}@127.0.0.1:port/x", 1, 'invalid integer value "port"'),
        ("POSTGRES_DSN", f"hots=127.0.0.1 password={SECRET}", 2, "--postgres='hots=127.0.0.1 password=***': can't be"),
        ("POSTGRES_DSN", f"postgresql://me:p%{SECRET}@127.0.0.1/x", 2, "write % @ : / and spaces"),
        ("POSTGRES_DSN", "{dsn}_not", 1, "does not exist"),
    ],
)
def test_an_address_that_cannot_work_is_told_in_one_line_without_its_password(
    cli: Cli, name: str, address: str, status: int, says: str
) -> None:
    began = time.monotonic()
    done = cli("run", JOB, "--", "touch", "ran", **{f"EXCLUSIVE_{name}": address.replace("{dsn}", cli.dsn)})
    assert says in one_line(done)
    assert done.returncode == status
    assert SECRET not in done.stdout + done.stderr
    assert time.monotonic() - began < 8, "waiting can't cure it"
    assert not (cli.folder / "ran").exists()
    assert cli.locks() == []
    assert cli.guard.status() == []


@pytest.mark.parametrize("nobody_reads", ["2>/dev/full", "2>&-"])
def test_the_command_runs_though_nothing_can_be_said(cli: Cli, nobody_reads: str) -> None:
    ours = shlex.join(
        [sys.executable, "-m", "airflow_exclusive.cli", "run", JOB, "--run-key", TICK, "--", "echo", "ran"]
    )
    done = subprocess.run(
        ["sh", "-c", f"{ours} {nobody_reads}"], env=cli.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert cli.outcomes() == ["success"]


OUTPUTS = ["status", "status --json", "doctor --json", "init"]


@pytest.mark.parametrize("command", OUTPUTS)
def test_output_that_cannot_be_written_is_told_in_one_line(cli: Cli, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = cli(*command.split(), out=full)
    assert done.returncode == 1
    assert "No space left on device" in one_line(done)


@pytest.mark.parametrize("command", OUTPUTS)
def test_output_that_nobody_reads_is_no_more_to_be_told(cli: Cli, command: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as unread:
        done = cli(*command.split(), out=unread)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1"])
def test_a_name_that_cannot_be_shown_is_shown_escaped(cli: Cli, encoding: str) -> None:
    cli.run("--", "true")
    told = [
        cli(*command, PYTHONIOENCODING=encoding) for command in (["status", "--json"], ["status"], ["history", JOB])
    ]
    assert [(done.returncode, done.stderr) for done in told] == [(0, "")] * 3
    assert json.loads(told[0].stdout)[0]["job_name"] == JOB
    assert r"\u5907\u4efd" in told[1].stdout


def test_a_tick_is_not_drawn_by_chance(cli: Cli) -> None:
    done = cli("run", JOB, "--cron", "R 2 * * *", "--", "touch", "ran")
    assert "--cron='R 2 * * *': has a field that is drawn by chance" in one_line(done)
    assert done.returncode == 2


def test_a_signal_to_a_command_that_became_another_users_is_no_reason_to_leave_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As under sudo: only the command itself can end then, and until it does the lease is kept."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("airflow_exclusive.cli.run.os.killpg", refuse)
    before = signal.getsignal(signal.SIGUSR1)
    command = ["sh", "-c", f"kill -USR1 {os.getpid()}; sleep 0.2; echo > {tmp_path}/ended"]
    status = run_guarded(
        cli.guard, JOB, command, run_key=TICK, wait=0, rerun=False, settings=LeaseSettings(on_lease_lost="raise")
    )
    assert (status, (tmp_path / "ended").exists()) == (0, True)
    assert cli.outcomes() == ["success"]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_servers_that_do_not_answer_are_told_in_one_line_and_nothing_stays_behind(cli: Cli, closed_port: int) -> None:
    redis_url = f"redis://me:{SECRET}@127.0.0.1:{closed_port}/0"
    dsn = f"postgresql://me:{SECRET}@127.0.0.1:{closed_port}/x"
    run = ("run", JOB, "--run-key", TICK, "--", "touch", "ran")
    no_database = cli.start(*run, EXCLUSIVE_POSTGRES_DSN=dsn)
    no_status = cli.start("status", EXCLUSIVE_POSTGRES_DSN=dsn)
    no_gate = cli(*run, EXCLUSIVE_REDIS_URL=redis_url)

    assert f"Redis at redis://me:***@127.0.0.1:{closed_port}/0 doesn't answer" in one_line(no_gate)
    for process in (no_database, no_status):
        done = ended(process)
        assert done.returncode == no_gate.returncode == 1
        assert f"Postgres at postgresql://me:***@127.0.0.1:{closed_port}/x doesn't answer" in one_line(done)
        assert SECRET not in no_gate.stderr + done.stderr
    assert not (cli.folder / "ran").exists()
    assert cli.locks() == []
    assert cli.guard.status() == []


def test_postgres_decides_alone_where_that_was_asked_for(cli: Cli, closed_port: int) -> None:
    alone = ("--on-redis-down", "postgres", "--redis", f"redis://127.0.0.1:{closed_port}/0", "--", "echo", "ran")
    assert cli.run(*alone).stdout == "ran\n"
    assert cli.outcomes() == ["success"]


@pytest.mark.parametrize("command", [["run", JOB, "--", "touch", "ran"], ["status"], ["history", JOB]])
def test_a_database_without_tables_names_the_cure(
    tmp_path: Path, redis_url: str, empty_database: str, command: list[str]
) -> None:
    cli = Cli(tmp_path, redis_url, empty_database)
    done = cli(*command)
    assert done.returncode == 1
    assert "run `airflow-exclusive init`" in one_line(done)
    assert not (cli.folder / "ran").exists()
    assert cli.locks() == []
    cli.close()


def test_without_addresses_the_usage_names_the_variables(cli: Cli) -> None:
    del cli.environment["EXCLUSIVE_REDIS_URL"]
    done = cli("status")
    assert done.returncode == 2
    assert "EXCLUSIVE_REDIS_URL" in done.stderr
