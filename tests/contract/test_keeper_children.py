"""What the keeper does about all that a job may start, about C code that lets nobody in, and without /proc."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from airflow_exclusive.core.admission import Busy
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.keeper import watched_job
from airflow_exclusive.keeper.page import Entry, Page
from airflow_exclusive.keeper.started import end_started, forked_since, sharing, started_by
from airflow_exclusive.keeper.watched_job import WatchedJob
from tests.support.children import CHECKOUT
from tests.support.jobs import alive, freeze
from tests.support.ledger import JOB, NEXT_TICK, TICK
from tests.support.parent_job import CHILDREN, program_left_by_a_shell
from tests.support.waiting import eventually, stays

TTL = 6.0

PATIENCE = 45.0
"""Seconds until an event that must come is given up on."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def guard(redis_url: str, database: str) -> Iterator[JobGuard]:
    with JobGuard(redis=redis_url, postgres=database) as made:
        yield made


@pytest.fixture
def start(redis_url: str, database: str, tmp_path: Path) -> Iterator[Start]:
    """Start a job with such children and wait until it is admitted and they work; nothing of it is left at the end."""
    jobs: list[subprocess.Popen[str]] = []

    def begin(
        *children: str,
        name: str = JOB,
        beside: str = "",
        hold_the_gil: float = 0,
        prefix: tuple[str, ...] = (),
        **settings: Any,
    ) -> Any:
        (tmp_path / name).mkdir()
        order = {
            "redis": redis_url,
            "postgres": database,
            "job": name,
            "run_key": TICK,
            "folder": str(tmp_path / name),
            "children": children,
            "beside": beside,
            "hold_the_gil": hold_the_gil,
            "settings": {"ttl": TTL, **settings},
        }
        job = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.support.parent_job", json.dumps(order)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'plugins'}"},
            start_new_session=True,
        )
        jobs.append(job)
        assert job.stdout is not None
        assert job.stdout.readline() == "admitted\n"
        return job

    yield begin
    for job in jobs:
        job.kill()
        job.wait()
        assert job.stdout is not None
        job.stdout.close()
    for file in tmp_path.glob("*/*"):
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def outcomes(guard: JobGuard) -> list[str]:
    return [run.outcome for run in reversed(guard.history(JOB))]


def run_next_tick(guard: JobGuard) -> None:
    with guard.hold(JOB, run_key=NEXT_TICK):
        pass


def heartbeat(guard: JobGuard) -> float:
    """How long after its start the attempt was last renewed, in seconds."""
    (status,) = guard.status(JOB)
    assert status.started_at
    assert status.heartbeat_at
    return (status.heartbeat_at - status.started_at).total_seconds()


def pids(folder: Path) -> dict[str, int]:
    """Kind -> pid of the children, once all of them work."""
    eventually(lambda: all((folder / kind).exists() for kind in CHILDREN), timeout=PATIENCE)
    return {kind: int((folder / kind).read_text()) for kind in CHILDREN}


def still_there(children: dict[str, int]) -> list[str]:
    return [kind for kind, pid in children.items() if alive(pid)]


def test_nothing_that_a_killed_job_started_works_on(start: Start, guard: JobGuard, tmp_path: Path) -> None:
    job = start(*CHILDREN, ttl=60)
    children = pids(tmp_path / JOB)
    assert still_there(children) == list(CHILDREN)

    os.kill(job.pid, signal.SIGKILL)
    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)

    assert still_there(children) == [], "none of them outlived the attempt"
    run_next_tick(guard)


def test_what_a_killed_job_started_while_its_leases_overlapped_is_ended_with_it(
    start: Start, guard: JobGuard, tmp_path: Path
) -> None:
    """A program, nobody's child: all that tells whose it is, is its environment."""
    kind = program_left_by_a_shell.__name__
    job = start(kind, beside="other", ttl=60)
    eventually((tmp_path / JOB / kind).exists, PATIENCE)
    child = int((tmp_path / JOB / kind).read_text())

    os.kill(job.pid, signal.SIGKILL)
    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)
    assert not alive(child)
    eventually(lambda: [run.outcome for run in guard.history("other")] == ["failed"], PATIENCE)


def test_nothing_that_a_frozen_job_started_works_on_when_its_lease_lapses(
    start: Start, guard: JobGuard, connection: psycopg.Connection, tmp_path: Path
) -> None:
    ttl = 1.5 * TTL
    job = start(*CHILDREN, ttl=ttl)
    children = pids(tmp_path / JOB)

    freeze(job.pid)
    eventually(lambda: still_there(children) == [], PATIENCE)
    query = "SELECT clock_timestamp() < heartbeat_at + %s * interval '1 second' FROM exclusive.scheduled_job_status"
    assert connection.execute(query, [ttl]).fetchone() == (True,)

    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)
    assert job.wait(PATIENCE) == -signal.SIGKILL
    run_next_tick(guard)


def test_the_children_of_another_job_are_left_alone(start: Start, guard: JobGuard, tmp_path: Path) -> None:
    job, other = start(*CHILDREN, ttl=60), start(*CHILDREN, name="other", ttl=60)
    children, others = pids(tmp_path / JOB), pids(tmp_path / "other")

    os.kill(job.pid, signal.SIGKILL)
    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)

    assert still_there(children) == []
    assert still_there(others) == list(CHILDREN)
    assert other.poll() is None


def test_c_code_that_holds_the_gil_for_15_s_keeps_its_lease_of_6_s(start: Start, guard: JobGuard) -> None:
    job = start(hold_the_gil=15)

    assert stays(lambda: isinstance(guard.peek(JOB, run_key=NEXT_TICK), Busy), 12, every=0.5)

    assert job.stdout is not None
    assert float(job.stdout.readline()) >= 15, "no other thread got the GIL meanwhile"
    assert job.wait(PATIENCE) == 0
    assert outcomes(guard) == ["success"]


@pytest.fixture
def hidden_proc() -> tuple[str, ...]:
    """A command that hides /proc from the one after it, as some containers do."""
    hide = ["sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        seen = subprocess.run([*unshare, *hide, "ls", "/proc"], capture_output=True, text=True, check=False)
        if seen.returncode == 0 and not seen.stdout:
            return (*unshare, *hide)
    pytest.skip("nobody here may hide /proc from a process")


def test_a_job_without_proc_is_kept_and_its_death_is_noticed(
    start: Start, guard: JobGuard, hidden_proc: tuple[str, ...]
) -> None:
    job = start(prefix=hidden_proc, ttl=TTL)
    eventually(lambda: heartbeat(guard) > TTL, PATIENCE)
    assert isinstance(guard.peek(JOB, run_key=NEXT_TICK), Busy)

    os.kill(job.pid, signal.SIGKILL)
    eventually(lambda: outcomes(guard) == ["failed"], PATIENCE)
    run_next_tick(guard)


@pytest.fixture
def container() -> tuple[str, ...]:
    """A command that makes the one after it the first process of a namespace."""
    own = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    for unshare in (own, (*own, "--map-root-user")):
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
            return unshare
    pytest.skip("nobody here may make a namespace of processes")


def test_the_first_process_of_a_container_ends_with_its_lease(
    start: Start, guard: JobGuard, container: tuple[str, ...]
) -> None:
    job = start(prefix=container, max_run_time=1, ttl=2 * TTL)
    eventually(lambda: job.poll() is not None, PATIENCE)
    assert job.poll() == 137
    assert not guard.status(JOB)[0].lapsed


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page.create(Entry(confirmed=0.0))
    yield made
    made.close()


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither /proc nor pidfd_open tell anything."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    for reading in ("read_text", "read_bytes", "open", "readlink"):
        monkeypatch.setattr(Path, reading, refuse)
    monkeypatch.setattr(psutil, "process_iter", refuse)


def test_the_parents_death_is_seen_even_where_nothing_else_can_be(blind: None, page: Page) -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        parent = os.getpid()
        if os.fork() == 0:
            try:
                job = WatchedJob(parent, "owner", page.name)
                before = (job.descriptor, job.dead, job.stopped)
                os.kill(parent, signal.SIGKILL)
                while not job.dead:
                    time.sleep(0.01)
                os.write(write, json.dumps([*before, job.kill(within=1.0)]).encode())
            finally:
                os._exit(0)
        signal.pause()
    os.waitpid(parent, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert json.loads(answer.read()) == [None, False, False, True]


def test_a_job_works_no_more_while_all_that_it_started_is_looked_for(page: Page) -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        parent = os.getpid()
        if os.fork() == 0:
            try:
                job = WatchedJob(parent, "owner", page.name)
                looked: list[bool] = []

                def look() -> Iterator[psutil.Process]:
                    looked.append(eventually(lambda: job.dead or job.stopped))
                    return iter(())

                job._started = look  # type: ignore[method-assign]
                os.write(write, json.dumps([job.kill(within=10), looked[0]]).encode())
            finally:
                with suppress(ProcessLookupError):
                    os.kill(parent, signal.SIGKILL)
                os._exit(0)
        signal.pause()
    os.waitpid(parent, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert json.loads(answer.read()) == [True, True]


def test_a_job_and_its_children_are_dead_though_the_search_of_the_whole_machine_stands_still(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that is killed in the middle of it leaves nobody frozen, with the locks that he holds."""

    def stand_still(*_: object) -> Iterator[psutil.Process]:
        signal.pause()
        return iter(())

    monkeypatch.setattr(watched_job, "started_by", stand_still)
    monkeypatch.setattr(watched_job, "sharing", stand_still)
    read, write = os.pipe()
    job = os.fork()
    if job == 0:
        job = os.getpid()
        if (child := os.fork()) == 0:
            while True:
                signal.pause()
        if os.fork() == 0:
            try:
                os.write(write, f"{child} {os.getpid()}\n".encode())
                WatchedJob(job, "owner", page.name).kill(within=PATIENCE)
            finally:
                os._exit(0)
        while True:
            signal.pause()
    os.close(write)
    with os.fdopen(read) as answer:
        child, keeper = (int(pid) for pid in answer.readline().split())
    try:
        eventually(lambda: not alive(job) and not alive(child))
        assert alive(keeper), "it looks for others still"
    finally:
        for pid in (keeper, child, job):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(job, 0)


@pytest.fixture
def nameless(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose name is no text, and that has a file in its memory whose name is none either."""
    path = tmp_path / os.fsdecode(b"\xff\r")
    path.write_bytes(b"bytes")
    program = "import ctypes, mmap, os, sys; ctypes.CDLL(None).prctl(15, b'\\xff', 0, 0, 0)"  # PR_SET_NAME
    program += "; file = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_job_whose_name_is_no_text_is_watched_like_any_other(nameless: subprocess.Popen[bytes], page: Page) -> None:
    job = WatchedJob(nameless.pid, "owner", page.name)
    assert not job.stopped
    freeze(nameless.pid)
    assert job.stopped


def test_a_program_whose_name_is_no_text_hides_nobody(nameless: subprocess.Popen[bytes], page: Page) -> None:
    assert nameless.pid in [process.pid for process in forked_since(0.0)]
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        assert [process.pid for process in sharing(page.name)] == [child]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_ending_what_a_job_started_is_no_error_where_nothing_can_be_seen(blind: None) -> None:
    end_started("owner", within=0.1)


TWO_STEPS = "trap : TERM; echo > {folder}/first; sleep 300; echo $$ > {folder}/second; exec sleep 300"
"""A script that goes on to its next step when the first one is ended."""


def test_the_next_step_of_what_is_ended_is_ended_too(tmp_path: Path) -> None:
    owner = uuid.uuid4().hex
    script = subprocess.Popen(
        ["bash", "-c", TWO_STEPS.format(folder=tmp_path)],
        env={**os.environ, "EXCLUSIVE_OWNER": owner},
        start_new_session=True,
    )
    eventually((tmp_path / "first").exists)
    eventually(lambda: len(list(started_by(owner))) == 2)

    end_started(owner, within=2.0)

    assert (tmp_path / "second").exists()
    assert list(started_by(owner)) == []
    script.wait()
