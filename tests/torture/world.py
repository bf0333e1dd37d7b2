"""The servers, and the nodes, each behind proxies of its own. A node whose job has died gets a new one."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from airflow_exclusive.core.errors import ExclusiveError
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.stores.postgres.connection import ImpatientConnection, connect
from airflow_exclusive.stores.postgres.schema import upgrade
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.process import marked
from deploy.embedded.valkey import EmbeddedValkey
from tests.support import children
from tests.support.proxied_node import keepers, through
from tests.support.proxy import PostgresProtocol, Proxy, RedisProtocol
from tests.torture.history import History

_TABLE = """
    CREATE TABLE effect (
        id bigint GENERATED ALWAYS AS IDENTITY, job_name text, run_key text, generation int, step text, token bigint
    )
"""
_DONE = (
    "SELECT job_name, max(run_key::int) FROM exclusive.scheduled_job_run WHERE outcome = 'success' GROUP BY job_name"
)

_MARK = "TORTURE"
"""In the environment of all that nodes start, the file of the history."""


class World:
    """`jobs` of two kinds: the effects of one lie beside the ledger, those of the other in a database of their own."""

    def __init__(self, folder: Path, seed: str, nodes: int, jobs: int, ttl: float) -> None:
        self.folder, self.seed, self.ttl = folder, seed, ttl
        self.history = History(folder / "history.jsonl")
        self.postgres, self.redis = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "redis")
        self.jobs = [f"job {number}" for number in range(jobs)]
        self.nodes = [Node(self, number) for number in range(nodes)]
        self.over = False
        self._done: dict[str, int] = {}

    @contextmanager
    def alive(self) -> Iterator[None]:
        os.environ[_MARK] = str(self.history.file)
        with ExitStack() as at_end:
            self.postgres.start()
            at_end.callback(self.postgres.remove)
            self.redis.start()
            at_end.callback(self.redis.remove)
            for dsn, status in ((self.status_dsn, True), (self.effects_dsn, False)):
                self.postgres.create_database(dsn.rpartition("/")[2])
                upgrade(dsn, status=status)
                with psycopg.connect(dsn) as conn:
                    conn.execute(_TABLE)
            at_end.callback(self._end)
            for node in self.nodes:
                node.begin()
            yield

    @property
    def status_dsn(self) -> str:
        return self.postgres.dsn("status")

    @property
    def effects_dsn(self) -> str:
        return self.postgres.dsn("effects")

    def effects_of(self, job: str) -> str:
        return self.effects_dsn if self.jobs.index(job) % 2 else self.status_dsn

    def guard(self) -> JobGuard:
        return JobGuard(redis=self.redis.url(), postgres=self.status_dsn)

    def done(self) -> dict[str, int]:
        """By job the last tick that was done, -1 for none; while the server doesn't tell, as it was before."""
        with suppress(psycopg.Error), impatient(self.status_dsn) as conn:
            self._done = dict(conn.execute(_DONE).fetchall())
        return {job: self._done.get(job, -1) for job in self.jobs}

    def free(self, job: str) -> None:
        """As a person would, who believes that the runner is lost."""

        def release() -> None:
            with suppress(ExclusiveError), self.guard() as guard:
                guard.release(job, reason="by hand")

        threading.Thread(target=release, daemon=True).start()  # its servers may be frozen

    def left(self) -> list[psutil.Process]:
        """Whatever the nodes have started that is still there."""
        return marked(_MARK, str(self.history.file))

    def end_jobs(self) -> None:
        """Kill the nodes' jobs, and give them no new ones."""
        self.over = True
        for node in self.nodes:
            node.end()

    def _end(self) -> None:
        self.end_jobs()
        for process in self.left():
            _send(process, psutil.Process.kill)


class Node:
    """Its job process at the moment, and that one's keepers."""

    def __init__(self, world: World, number: int) -> None:
        self._world, self._number = world, number
        self._process: psutil.Process | None = None
        self._begun = 0
        self._life = threading.Thread(target=self._live, daemon=True)

    def __str__(self) -> str:
        return f"node {self._number}"

    def begin(self) -> None:
        """The job writes its effects on a way of its own."""
        self.redis = Proxy(RedisProtocol(), LOOPBACK, self._world.redis.port)
        self.postgres = Proxy(PostgresProtocol(), LOOPBACK, self._world.postgres.port)
        self.effects = Proxy(PostgresProtocol(), LOOPBACK, self._world.postgres.port)
        self._life.start()

    def end(self) -> None:
        while self._life.is_alive():
            for process in self.job():
                _send(process, psutil.Process.kill)
            self._life.join(0.1)

    def job(self) -> list[psutil.Process]:
        return [self._process] if self._process is not None else []

    def keepers(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return [found for job in self.job() for found in keepers(job)]
        return []

    def everything(self) -> list[psutil.Process]:
        """The job, its keepers and its forks."""
        with suppress(psutil.Error):
            return [found for job in self.job() for found in [job, *job.children(recursive=True)]]
        return []

    def send(
        self,
        processes: list[psutil.Process],
        act: Callable[[psutil.Process], object],
        what: str,
        pid: int | None = None,
    ) -> None:
        """Do it to all of them, which are those of the job `pid`, and tell of it."""
        self._world.history.note("struck", node=str(self), pid=self.pid if pid is None else pid, what=what)
        for process in processes:
            _send(process, act)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def _live(self) -> None:
        world = self._world
        with (world.folder / f"{self}.log").open("ab") as log:
            while not world.over:
                process = children.start("tests.torture.node", json.dumps(self._order()), stderr=log.fileno())
                with suppress(psutil.NoSuchProcess):
                    self._process = psutil.Process(process.pid)
                status = process.wait()
                world.history.note("died", node=str(self), pid=process.pid, status=status)
                self._process = None
                children.end(process)

    def _order(self) -> dict[str, Any]:
        world = self._world
        self._begun += 1
        return {
            "redis": through(world.redis.url(), self.redis),
            "postgres": through(world.status_dsn, self.postgres),
            "effects": {job: through(world.effects_of(job), self.effects) for job in world.jobs},
            "ticks": {job: done + 1 for job, done in world.done().items()},
            "ttl": world.ttl,
            "history": str(world.history.file),
            "seed": f"{world.seed} {self} {self._begun}",
        }


def impatient(dsn: str) -> ImpatientConnection:
    """For who must not wait for a server that is frozen."""
    return connect(dsn, connect_timeout=2, answer_within=2)


def _send(process: psutil.Process, act: Callable[[psutil.Process], object]) -> None:
    with suppress(psutil.Error):
        act(process)
