"""How much memory a keeper takes, and how soon a dead runner is replaced."""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import psutil

from airflow_exclusive import JobGuard
from airflow_exclusive.core.admission import Admitted
from benchmarks.figures import Figure

TTL = 6.0
JOBS = 20
_STARTED_WITHIN = 60.0
_WAITS_FOR = 20 * TTL
_OVER_WITHIN = 1.5 * _WAITS_FOR


@dataclass
class _Runner:
    job: str
    process: subprocess.Popen[str]
    keeper: int


def measure(redis_url: str, dsn: str) -> Iterator[Figure]:
    runners = _start(redis_url, dsn, "memory", 3)
    yield _memory(runners)
    for runner in runners:
        _kill_group(runner)
    yield _replaced(redis_url, dsn, "process group", _kill_group)
    yield _replaced(redis_url, dsn, "node: job and keeper", _kill_node)


def _memory(runners: list[_Runner]) -> Figure:
    time.sleep(TTL)  # until each has renewed at least once: before that its connections aren't made
    sizes = [psutil.Process(runner.keeper).memory_info().rss / 2**20 for runner in runners]
    return Figure("a keeper's resident memory", statistics.median(sizes), 40, "MB", f"{len(sizes)} keepers")


def _replaced(redis_url: str, dsn: str, what: str, kill: Callable[[_Runner], None]) -> Figure:
    """`JOBS` runners die; for each a standby waits. The figure is the slowest, in ttl; one that fails never comes."""
    runners = _start(redis_url, dsn, what, JOBS)
    waits: list[float] = []
    waiting = threading.Barrier(JOBS + 1, timeout=_STARTED_WITHIN)
    threads = [
        threading.Thread(target=_stand_by, args=(redis_url, dsn, one.job, waits, waiting), daemon=True)
        for one in runners
    ]
    for thread in threads:
        thread.start()
    _wait_for_all(waiting)
    began = time.monotonic()
    for runner in runners:
        kill(runner)
    for thread in threads:
        thread.join(max(0.0, began + _OVER_WITHIN - time.monotonic()))
    delays = [(wait - began) / TTL for wait in waits]
    median = statistics.median(delays) * TTL if delays else float("inf")
    detail = f"{len(delays)} of {JOBS} replaced, median {median:.2f} s, ttl {TTL:g} s"
    slowest = max(delays) if len(delays) == JOBS else float("inf")
    return Figure(f"takeover after kill -9 of the {what}, slowest of {JOBS}", slowest, 1.5, "x ttl", detail)


def _stand_by(redis_url: str, dsn: str, job: str, waits: list[float], waiting: threading.Barrier) -> None:
    with JobGuard(redis=redis_url, postgres=dsn) as guard:
        try:
            assert guard.peek(job, run_key="tick") is not None
        except BaseException:
            waiting.abort()  # nobody is to wait for this one
            raise
        _wait_for_all(waiting)
        admission = guard.admit(job, run_key="tick", ttl=TTL, wait=_WAITS_FOR)
        if isinstance(admission, Admitted):
            waits.append(time.monotonic())
            admission.lease.finish()


def _wait_for_all(waiting: threading.Barrier) -> None:
    """Or go on without one that has failed, or takes too long."""
    with suppress(threading.BrokenBarrierError):
        waiting.wait()


def _start(redis_url: str, dsn: str, what: str, count: int) -> list[_Runner]:
    jobs = [f"bench {what} {number}" for number in range(count)]
    runners: list[_Runner] = []
    with ExitStack() as on_failure:
        for job in jobs:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.holder", redis_url, dsn, job, str(TTL)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            on_failure.enter_context(process)
            on_failure.callback(os.killpg, process.pid, signal.SIGKILL)
            runners.append(_Runner(job, process, _keeper_of(process, job)))
        on_failure.pop_all()
    return runners


def _keeper_of(process: subprocess.Popen[str], job: str) -> int:
    assert process.stdout is not None
    told = select.select([process.stdout], [], [], _STARTED_WITHIN)[0] and process.stdout.readline()
    if not told:
        raise RuntimeError(f"the runner of {job!r} has no lease after {_STARTED_WITHIN:g} s, or has ended")
    return int(told)


def _kill_group(runner: _Runner) -> None:
    os.killpg(runner.process.pid, signal.SIGKILL)
    runner.process.wait()


def _kill_node(runner: _Runner) -> None:
    os.kill(runner.keeper, signal.SIGSTOP)
    _kill_group(runner)
    os.kill(runner.keeper, signal.SIGKILL)
