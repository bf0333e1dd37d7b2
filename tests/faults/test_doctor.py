"""What doctor says of servers that aren't as they should be, or that don't tell."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from airflow_exclusive.core.findings import Finding
from airflow_exclusive.stores.postgres import checks as postgres_checks
from airflow_exclusive.stores.postgres import pooler
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.redis import checks as redis_checks
from airflow_exclusive.stores.redis.locks import RedisLocks
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.postgres import PostgresServer
from tests.support.servers import PgBouncer, SystemRedis
from tests.support.waiting import eventually

# poolers


def of_pooler(dsn: str) -> Finding:
    database = Database(dsn, retry_for=0.0)
    (found,) = [found for found in postgres_checks.check(database) if found.subject == "pooler"]
    database.close()
    return found


@contextmanager
def bouncer(folder: Path, server: PostgresServer, database: str, **settings: object) -> Iterator[str]:
    """DSN of the database behind a pooler of its own."""
    made = PgBouncer(folder / "pgbouncer", server.dsn(), **settings)  # type: ignore[arg-type]
    try:
        yield made.start().dsn(database.rpartition("/")[2])
    finally:
        made.remove()


@pytest.mark.parametrize(
    ("mode", "level", "says"),
    [
        ("transaction", "ok", "in transaction mode"),
        ("session", "ok", "in session mode as far as can be seen"),
        ("statement", "error", "in statement mode: it breaks off transactions"),
    ],
)
def test_the_mode_of_a_pooler_is_told(
    tmp_path: Path, postgres_server: PostgresServer, database: str, mode: str, level: str, says: str
) -> None:
    with bouncer(tmp_path, postgres_server, database, pool_mode=mode) as dsn:
        found = of_pooler(dsn)
    assert found.level == level
    assert found.text.startswith(says)


def test_a_pool_with_no_room_does_not_show_its_mode(
    tmp_path: Path, postgres_server: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooler, "_ANSWER_WITHIN", 0.5)
    with bouncer(tmp_path, postgres_server, database, pool_mode="session", pool_size=1) as dsn:
        found = of_pooler(dsn)
    assert found.level == "warning"
    assert "its mode can't be told" in found.text


def test_the_mode_is_told_while_others_use_the_pool(pgbouncer: PgBouncer, database: str) -> None:
    dsn = pgbouncer.dsn(database.rpartition("/")[2])
    stop = threading.Event()
    ready = threading.Barrier(5)

    def work() -> None:
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
            connection.execute("SELECT 1")
            ready.wait(20)
            while not stop.is_set():
                connection.execute("SELECT 1")

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        ready.wait(20)
        assert pooler.mode(dsn) == "transaction"
    finally:
        stop.set()
        for worker in workers:
            worker.join(20)


# Redis


@pytest.fixture
def gate(breakable_redis: SystemRedis) -> Iterator[SystemRedis]:
    yield breakable_redis
    for name, value in {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}.items():
        breakable_redis.client.config_set(name, value)
    breakable_redis.client.acl_deluser("limited")


def of_redis(url: str) -> dict[str, list[str]]:
    """What was found at each level."""
    locks = RedisLocks(url)
    found: dict[str, list[str]] = {}
    for finding in redis_checks.check(locks):
        found.setdefault(finding.level, []).append(finding.text)
    locks.close()
    return found


def limited(gate: SystemRedis, *rules: str) -> str:
    """Address of a user who may do everything else."""
    gate.client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "+@all", *rules)
    return gate.url().replace("redis://", "redis://limited:secret@")


def test_a_server_with_no_faults_has_no_complaints(gate: SystemRedis) -> None:
    found = of_redis(gate.url())
    assert set(found) == {"ok", "note"}
    assert "scripts run" in found["ok"]
    assert len(found["note"]) == 1  # see below


def test_that_nothing_is_kept_on_disk_is_noted_whenever_it_was_last_saved(gate: SystemRedis) -> None:
    assert gate.client.info("persistence")["rdb_last_save_time"]  # when it was started
    assert "keeps nothing on disk" in of_redis(gate.url())["note"][0]


@pytest.mark.parametrize(("name", "value"), [("save", "3600 1"), ("appendonly", "yes")])
def test_nothing_is_noted_where_locks_are_kept(gate: SystemRedis, name: str, value: str) -> None:
    gate.client.config_set(name, value)
    assert "note" not in of_redis(gate.url())


def test_scripts_that_are_forbidden_are_an_error(gate: SystemRedis) -> None:
    found = of_redis(limited(gate, "-@scripting"))
    (text,) = found["error"]
    assert "refuses the user" in text
    assert "scripts run" not in found["ok"]


def test_a_user_who_may_not_wait_for_a_lock_is_an_error(gate: SystemRedis) -> None:
    (text,) = of_redis(limited(gate, "-blpop"))["error"]
    assert "blpop" in text.lower()


def test_what_a_server_does_not_tell_is_said_to_be_unknown(gate: SystemRedis) -> None:
    gate.client.config_set("maxmemory-policy", "allkeys-lru")
    assert of_redis(limited(gate, "-info", "-config")) == {
        "ok": ["scripts run"],
        "note": [
            "doesn't tell its version, its role and its replicas (INFO)",
            "doesn't tell its eviction policy (CONFIG GET)",
            "doesn't tell whether it keeps anything on disk (CONFIG GET, INFO)",
        ],
    }


@contextmanager
def replicated(folder: Path, *, in_step: bool = True) -> Iterator[tuple[SystemRedis, SystemRedis]]:
    """A primary and its replica, which has all that it had, or waits to be given it."""
    primary = SystemRedis(folder / "primary", {"repl-diskless-sync-delay": 0 if in_step else 3600})
    replica = SystemRedis(folder / "replica", {"replicaof": f"{LOOPBACK} {primary.port}"})
    with ExitStack() as servers:
        for server in (primary, replica):
            servers.callback(server.remove)
            server.start()
        state = "online" if in_step else "wait_bgsave"
        eventually(lambda: primary.client.info("replication").get("slave0", {}).get("state") == state, 20)
        yield primary, replica


def test_a_replica_is_an_error_in_the_place_of_its_primary(tmp_path: Path) -> None:
    with replicated(tmp_path) as (primary, replica):
        assert "warning" not in of_redis(primary.url())
        assert "is a replica: it can't be written to" in of_redis(replica.url())["error"]


def test_a_replica_that_lags_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_checks, "_LAG", 1)
    with replicated(tmp_path) as (primary, replica):
        assert replica.daemon is not None
        replica.daemon.send(signal.SIGSTOP)
        (text,) = eventually(lambda: of_redis(primary.url()).get("warning"), 20)  # type: ignore[misc]
        assert text.startswith(f"replica {LOOPBACK}:{replica.port} lags ")


def test_a_replica_that_has_yet_to_get_everything_is_a_warning(tmp_path: Path) -> None:
    with replicated(tmp_path, in_step=False) as (primary, replica):
        (text,) = of_redis(primary.url())["warning"]
        assert text.startswith(f"replica {LOOPBACK}:{replica.port} isn't in step yet (wait_bgsave)")
