"""A node's job process: does ticks for as long as it lives. `python -m tests.torture.node ORDER`, as JSON."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import psycopg

from airflow_exclusive.core.admission import AlreadyDone
from airflow_exclusive.core.errors import LeaseLost, NotAdmitted, StaleWrite, StoreUnavailable
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import JobGuard
from tests.torture.history import History

STEPS = ("first", "second", "third")
WRITE = """
    INSERT INTO effect (job_name, run_key, generation, step, token)
    VALUES (%(job)s, %(tick)s, %(generation)s, %(step)s, %(token)s)
"""
_SHORT_STEP, _LONG_STEP = 0.6, 3.0
"""The longest ones, in seconds and in ttl: a short one meets little, a long one outlives a lease that isn't renewed."""
_OFTEN = 0.75
"""How often a step is a short one."""
_SLICE = 0.02
_WAITS = (0.0, 0.0, 3.0, float("inf"))


class Node:
    """`ticks`: by job the number of the next one that it doesn't know to be done."""

    def __init__(self, guard: JobGuard, order: dict[str, Any]) -> None:
        self._guard = guard
        self._ticks: dict[str, int] = order["ticks"]
        self._effects: dict[str, str] = order["effects"]
        self._ttl: float = order["ttl"]
        self._history = History(Path(order["history"]))
        self._random = random.Random(order["seed"])

    def live(self) -> None:
        while True:
            job = self._random.choice(list(self._ticks))
            rerun = self._ticks[job] > 0 and self._random.random() < 0.05
            tick = str(self._ticks[job] - rerun)
            try:
                self._do(job, tick, rerun)
            except NotAdmitted as refused:
                done = isinstance(refused.admission, AlreadyDone)
                self._ticks[job] += done and not rerun
                if not done:
                    time.sleep(self._random.uniform(0.0, 0.2))
            except (LeaseLost, StoreUnavailable, psycopg.Error) as error:
                self._note("failed", job=job, tick=tick, why=repr(error))
            except Exception:
                self._note("bug", job=job, tick=tick, why=traceback.format_exc())
                raise
            else:
                self._ticks[job] += not rerun

    def _do(self, job: str, tick: str, rerun: bool) -> None:
        settings = LeaseSettings(
            ttl=self._ttl,
            renew=self._random.random() < 0.8,
            max_run_time=10 * self._ttl,  # a step may hang for ever
            on_lease_lost="raise" if self._random.random() < 0.2 else "stop",
            on_redis_down=self._random.choice(["fail", "postgres"]),
        )
        wait = self._random.choice(_WAITS)
        owner = ""
        try:
            with self._guard.hold(job, run_key=tick, rerun=rerun, wait=wait, settings=settings) as lease:
                owner = lease.owner
                self._note("begun", owner=owner, job=job, tick=tick, policy=settings.on_lease_lost)
                helper = self._helper(owner) if self._random.random() < 0.3 else None
                try:
                    self._work(lease)
                finally:
                    if helper is not None:
                        os.kill(helper, signal.SIGKILL)
                        os.waitpid(helper, 0)
                    self._note("stopped", owner=owner)
        except StaleWrite:
            self._note("refused", owner=owner)
            raise
        self._note("finished", owner=owner)

    def _work(self, lease: Lease) -> None:
        with psycopg.connect(self._effects[lease.job_name], connect_timeout=5) as conn:
            for step in STEPS:
                longest = _SHORT_STEP if self._random.random() < _OFTEN else _LONG_STEP * self._ttl
                until = time.monotonic() + self._random.uniform(0.0, longest)
                while time.monotonic() < until:
                    lease.ensure_held()
                    time.sleep(_SLICE)
                with lease.transaction(conn, step=step) as tx:
                    if not tx.done:
                        tx.execute(WRITE, self._row(lease, step))

    def _helper(self, owner: str) -> int:
        """A fork that works along, perhaps in a session of its own, and ends when it is ended."""
        detached = self._random.random() < 0.5
        if pid := os.fork():
            return pid
        try:
            if detached:
                os.setsid()
            while True:
                self._note("helped", owner=owner)
                time.sleep(_SLICE)
        finally:
            os._exit(1)

    @staticmethod
    def _row(lease: Lease, step: str) -> dict[str, Any]:
        return {
            "job": lease.job_name,
            "tick": lease.run_key,
            "generation": lease.generation,
            "step": step,
            "token": lease.token,
        }

    def _note(self, kind: str, **details: Any) -> None:
        self._history.note(kind, pid=os.getpid(), **details)


def main() -> None:
    order = json.loads(sys.argv[1])
    with JobGuard(redis=order["redis"], postgres=order["postgres"]) as guard:
        Node(guard, order).live()


if __name__ == "__main__":
    main()
