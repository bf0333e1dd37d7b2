"""A node whose way to the servers leads through proxies, and what has to be true when it has run a tick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg

from airflow_exclusive.core.admission import Admitted, AlreadyDone
from airflow_exclusive.core.errors import NotAdmitted
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.node import clock
from airflow_exclusive.stores.redis.address import Address
from airflow_exclusive.stores.redis.scripts import lock_key
from tests.support.ledger import JOB, NEXT_TICK, TICK
from tests.support.proxy import PostgresProtocol, Proxy, RedisProtocol
from tests.support.waiting import eventually

TTL = 10.0
"""Nothing below waits for it: what takes half as long has waited for something that it shouldn't."""


def settings(ttl: float = TTL, **more: Any) -> LeaseSettings:
    """A lost lease is an error of the test, and doesn't end its process."""
    return LeaseSettings(ttl=ttl, on_lease_lost="raise", **more)


_WRITE = "INSERT INTO effect (token) VALUES (%(token)s)"


@dataclass
class Node:
    """Tries as Airflow does, up to three times, and commits one effect each time. `before` is the rest of its work."""

    redis: str
    postgres: str
    ttl: float = TTL
    policies: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Lease], None] = lambda _: None
    ran: list[int] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def run(self, run_key: str = TICK, *, tries: int = 3, wait: float = 0) -> None:
        asked = settings(self.ttl, **self.policies)
        with JobGuard(redis=self.redis, postgres=self.postgres) as guard:
            for _ in range(tries):
                try:
                    with guard.hold(JOB, run_key=run_key, wait=wait, settings=asked) as lease:
                        self.work(lease)
                    return
                except NotAdmitted as refused:
                    if isinstance(refused.admission, AlreadyDone):
                        return
                    self.errors.append(refused)
                except Exception as error:
                    self.errors.append(error)

    def work(self, lease: Lease) -> None:
        self.ran.append(lease.token)
        self.before(lease)
        with psycopg.connect(self.postgres) as conn, lease.transaction(conn) as tx:
            if not tx.done:
                tx.execute(_WRITE, {"token": lease.token})


@dataclass
class Truth:
    """The servers as they are, asked directly."""

    redis: str
    postgres: str

    def __post_init__(self) -> None:
        with psycopg.connect(self.postgres) as conn:
            conn.execute("CREATE TABLE IF NOT EXISTS effect (token bigint)")

    @contextmanager
    def guard(self) -> Iterator[JobGuard]:
        with JobGuard(redis=self.redis, postgres=self.postgres, node_id="another node") as guard:
            yield guard

    def outcomes(self) -> list[str]:
        with self.guard() as guard:
            return [run.outcome for run in reversed(guard.history(JOB))]

    def heartbeat(self) -> float:
        """When the job was last renewed."""
        with self.guard() as guard:
            (status,) = guard.status(JOB)
        assert status.heartbeat_at
        return status.heartbeat_at.timestamp()

    def clock(self) -> float:
        """The database's."""
        with self.guard() as guard:
            return guard.statuses.clock()

    def wait_for_renewals(self, number: int) -> None:
        for _ in range(number):
            before = self.heartbeat()
            eventually(lambda before=before: self.heartbeat() > before, 30, every=0.1)  # type: ignore[misc]

    def effects(self) -> int:
        with psycopg.connect(self.postgres) as conn:
            return conn.execute("SELECT FROM effect").rowcount

    def lock(self) -> str | None:
        with Address.parse(self.redis).connect(timeout=5, tries_again=1) as client:
            holder = client.get(lock_key(JOB))
        assert holder is None or isinstance(holder, bytes)
        return holder.decode() if holder else None

    def check_done_once(self) -> None:
        """The tick was done once, nothing is left of it, and nobody waits for what was lost."""
        assert self.lock() is None
        self.check_done_once_but_for_its_lock()

    def check_done_once_but_for_its_lock(self) -> None:
        assert self.effects() == 1
        assert self.outcomes().count("success") == 1
        assert not set(self.outcomes()) & {"running", "taken_over"}
        assert keepers() == []
        self.check_free()

    def check_free(self) -> None:
        """Another tick is admitted at once."""
        with self.guard() as guard:
            guard.locks.owner(JOB)  # to be connected, which takes its time with a cluster on a busy machine
            guard.status(JOB)
            asked = clock()
            admission = guard.admit(JOB, run_key=NEXT_TICK, settings=settings())
            assert isinstance(admission, Admitted), str(admission)
            admission.lease.finish("failed")
            assert clock() - asked < TTL / 4
            assert isinstance(guard.admit(JOB, run_key=TICK, settings=settings()), AlreadyDone)


def keepers(job: psutil.Process | None = None) -> list[psutil.Process]:
    """The keepers of that process, or of this one."""
    found = []
    for child in (job or psutil.Process()).children():
        try:
            if any("keeper.process" in part for part in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def heard(lease: Lease) -> None:
    """Wait until the keeper of a fixed lease has taken in what its question came to."""
    (keeper,) = keepers()
    eventually(lambda: keeper.num_threads() == 1)
    before = _turns(lease)
    eventually(lambda: _turns(lease) > before + 1)


def _turns(lease: Lease) -> int:
    """How often its keeper has looked around."""
    return int(lease._keeper._page.read().turns)  # type: ignore[attr-defined]


@dataclass
class Proxied:
    """A node behind two proxies, and the truth beside them."""

    node: Node
    truth: Truth
    redis: Proxy
    postgres: Proxy


@contextmanager
def proxied(redis_url: str, dsn: str) -> Iterator[Proxied]:
    gate, truth = urlsplit(redis_url), urlsplit(dsn)
    assert gate.hostname
    assert truth.hostname
    redis_proxy = Proxy(RedisProtocol(), gate.hostname, gate.port or 6379)
    postgres_proxy = Proxy(PostgresProtocol(), truth.hostname, truth.port or 5432)
    try:
        node = Node(through(redis_url, redis_proxy), through(dsn, postgres_proxy))
        yield Proxied(node, Truth(redis_url, dsn), redis_proxy, postgres_proxy)
    finally:
        redis_proxy.close()
        postgres_proxy.close()


def through(url: str, proxy: Proxy) -> str:
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    netloc = f"{login}@127.0.0.1:{proxy.port}" if login else f"127.0.0.1:{proxy.port}"
    return parts._replace(netloc=netloc).geturl()
