"""The gate restarted, emptied, full, forgetful, slow and away: never a second run, and none too few."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis

from airflow_exclusive.core.admission import Admitted, AlreadyDone, Busy
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, StoreMisconfigured, StoreUnavailable
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.keeper.gate import Gate
from airflow_exclusive.node import clock
from airflow_exclusive.stores.redis.address import Address
from airflow_exclusive.stores.redis.locks import RedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key, wake_key
from tests.support.certificates import Certificates
from tests.support.ledger import JOB, NEXT_TICK, TICK
from tests.support.proxied_node import Node, Truth, proxied, settings
from tests.support.proxy import SLOW
from tests.support.servers import SystemRedis
from tests.support.waiting import eventually

KEY = lock_key(JOB)


@pytest.fixture
def gate(breakable_redis: SystemRedis) -> Iterator[SystemRedis]:
    """A server to break, empty and as it was configured."""
    breakable_redis.client.flushall()
    yield breakable_redis
    breakable_redis.client.config_set("maxmemory", 0)


@pytest.fixture
def node(gate: SystemRedis, database: str) -> Node:
    return Node(gate.url(), database, ttl=3)


@pytest.fixture
def truth(gate: SystemRedis, database: str) -> Truth:
    return Truth(gate.url(), database)


def restart(server: SystemRedis) -> None:
    server.kill()
    server.start()


def fill_up(server: SystemRedis) -> None:
    server.client.config_set("maxmemory", 1)


FORGETTING: dict[str, Callable[[SystemRedis], object]] = {
    "restart": restart,
    "FLUSHALL": lambda server: server.client.flushall(),
}
DISTURBANCES: dict[str, Callable[[SystemRedis], object]] = {
    **FORGETTING,
    "SCRIPT FLUSH": lambda server: server.client.script_flush(),
    "CLIENT KILL": lambda server: server.client.client_kill_filter(_type="normal", skipme=True),
    "full memory": fill_up,
}


@pytest.mark.parametrize("what", DISTURBANCES)
def test_what_happens_to_redis_during_a_run_changes_nothing(
    node: Node, truth: Truth, gate: SystemRedis, what: str
) -> None:
    def disturb(lease: Lease) -> None:
        truth.wait_for_renewals(1)
        DISTURBANCES[what](gate)
        with truth.guard() as other:
            assert isinstance(other.admit(JOB, run_key=TICK, settings=settings()), Busy)
        eventually(lambda: gate.client.get(KEY) == lease.owner and gate.client.pttl(KEY) > 0.9 * 1000 * node.ttl, 5)
        truth.wait_for_renewals(1)
        lease.ensure_held()

    node.before = disturb
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    gate.client.config_set("maxmemory", 0)
    truth.check_done_once()


@pytest.mark.parametrize("what", FORGETTING)
def test_a_lock_that_is_lost_between_gate_and_truth_lets_nobody_run_twice(
    gate: SystemRedis, database: str, truth: Truth, what: str
) -> None:
    """Two are past the gate, and ask Postgres at the same moment."""
    nodes = [Node(gate.url(), database) for _ in range(2)]
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    threads = [threading.Thread(target=node.run, kwargs={"wait": 30}) for node in nodes]
    with psycopg.connect(database) as lock, psycopg.connect(database, autocommit=True) as watcher:
        lock.execute("LOCK TABLE exclusive.scheduled_job_status IN ACCESS EXCLUSIVE MODE")
        for number, thread in enumerate(threads, 1):
            thread.start()
            eventually(lambda number=number: watcher.execute(waiting).rowcount == number)  # type: ignore[misc]
            FORGETTING[what](gate)
        lock.rollback()
        for thread in threads:
            thread.join(40)
    assert [node.errors for node in nodes] == [[], []]
    assert [*nodes[0].ran, *nodes[1].ran] == [1]
    assert truth.outcomes() == ["success"]
    assert truth.effects() == 1


def test_a_waiter_whose_connection_is_killed_waits_on(gate: SystemRedis, node: Node, truth: Truth) -> None:
    def blocked() -> list[str]:
        return [client["id"] for client in gate.client.client_list() if client["cmd"] == "blpop"]

    with truth.guard() as other:
        runner = other.admit(JOB, run_key=NEXT_TICK, settings=settings(60))
        assert isinstance(runner, Admitted)
        waiter = threading.Thread(target=node.run, kwargs={"wait": 60})
        waiter.start()
        (first,) = eventually(blocked)
        gate.client.client_kill_filter(_id=first)
        eventually(lambda: blocked() not in ([], [first]))
        freed = clock()
        runner.lease.finish()
        waiter.join(30)
    assert clock() - freed < 3
    assert (node.errors, node.ran) == ([], [2])


def test_a_full_server_takes_no_new_lock_and_frees_those_it_has(gate: SystemRedis) -> None:
    locks = RedisLocks(gate.url())
    assert locks.acquire("one", "a", 30).mine
    fill_up(gate)
    with pytest.raises(StoreUnavailable, match=r"can't serve the lock: .*maxmemory"):
        locks.acquire("two", "a", 30)
    assert locks.acquire("one", "a", 30).mine
    assert not locks.acquire("one", "b", 30).mine
    assert locks.release("one", "a")
    assert gate.client.get(lock_key("one")) is None
    locks.close()


def test_a_server_that_takes_a_second_for_each_reply_delays_and_no_more(redis_url: str, database: str) -> None:
    with proxied(redis_url, database) as world:
        fault = world.redis.arm(lambda request: request.startswith(b"EVAL"), SLOW, times=1000)
        world.node.ttl = 6
        world.node.before = lambda _: world.truth.wait_for_renewals(1)
        world.node.run()
        assert fault.seen >= 3
        assert (world.node.errors, world.node.ran) == ([], [1])
        world.truth.check_done_once()


# away


@pytest.mark.parametrize("why", ["away", "full"])
def test_fail_admits_nobody_while_the_gate_is_shut(gate: SystemRedis, node: Node, truth: Truth, why: str) -> None:
    gate.kill() if why == "away" else fill_up(gate)
    began = clock()
    try:
        node.run(tries=1)
        assert clock() - began < 5
        assert [type(error) for error in node.errors] == [StoreUnavailable]
        assert "secret" not in str(node.errors)
        assert node.ran == []
        assert truth.outcomes() == []
    finally:
        gate.start() if why == "away" else gate.client.config_set("maxmemory", 0)
    node.run(tries=1)
    assert node.ran == [1]
    truth.check_done_once()


@pytest.mark.parametrize("why", ["away", "full"])
def test_postgres_decides_alone_where_it_is_asked_to(gate: SystemRedis, node: Node, truth: Truth, why: str) -> None:
    alone = settings(on_redis_down="postgres")
    answers: list[object] = []

    def others_ask(lease: Lease) -> None:
        with truth.guard() as other:
            answers.append(other.admit(JOB, run_key=TICK, settings=alone))
        truth.wait_for_renewals(1)
        lease.ensure_held()

    node.policies, node.before = {"on_redis_down": "postgres"}, others_ask
    gate.kill() if why == "away" else fill_up(gate)
    try:
        node.run()
        with truth.guard() as other:
            answers.append(other.admit(JOB, run_key=TICK, settings=alone))
    finally:
        gate.start() if why == "away" else gate.client.config_set("maxmemory", 0)
    assert (node.errors, node.ran) == ([], [1])
    assert [type(answer) for answer in answers] == [Busy, AlreadyDone]
    truth.check_done_once()


def test_a_gate_that_comes_back_has_the_lock_until_the_end(gate: SystemRedis, node: Node, truth: Truth) -> None:
    """Admitted without the gate, its keeper takes the lock as soon as there is one to take."""

    def come_back(lease: Lease) -> None:
        gate.start()
        eventually(lambda: gate.client.get(KEY) == lease.owner)

    node.policies, node.before = {"on_redis_down": "postgres"}, come_back
    gate.kill()
    try:
        node.run()
    finally:
        gate.start()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


# TLS, passwords, limited users


def tls(server: SystemRedis, authority: Path, password: str = "p@ss:word/1") -> str:
    return f"rediss://:{quote(password, safe='')}@127.0.0.1:{server.port}/0?ssl_ca_certs={quote(str(authority))}"


def test_a_run_over_tls_with_a_password(tls_redis: SystemRedis, certificates: Certificates, database: str) -> None:
    url = tls(tls_redis, certificates.authority)
    truth = Truth(url, database)
    node = Node(url, database, ttl=3)

    def heal(lease: Lease) -> None:
        with Address.parse(url).connect(timeout=5, tries_again=0) as client:
            client.delete(KEY)
        eventually(lambda: truth.lock() == lease.owner)  # the keeper has got in, too

    node.before = heal
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_a_server_whose_certificate_is_anothers_is_not_trusted(
    tls_redis: SystemRedis, certificates: Certificates, tmp_path: Path
) -> None:
    stranger = Certificates.make(tmp_path / "stranger")
    locks = RedisLocks(tls(tls_redis, stranger.authority))
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        locks.acquire(JOB, "a", 30)
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        Gate(tls(tls_redis, stranger.authority), JOB, "a", timeout=2).renew(30)
    locks.close()


def test_a_wrong_password_is_told_and_not_shown(tls_redis: SystemRedis, certificates: Certificates) -> None:
    locks = RedisLocks(tls(tls_redis, certificates.authority, "wr@ng"))
    with pytest.raises(StoreMisconfigured, match="refuses the user") as failed:
        locks.acquire(JOB, "a", 30)
    assert "ng@" not in str(failed.value)
    locks.close()


def documented_user() -> list[str]:
    """The words of the line in docs/operations.md that makes a limited user."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("ACL SETUSER ")]
    return line.split()


@pytest.fixture
def limited(gate: SystemRedis) -> Iterator[str]:
    words = documented_user()
    gate.client.execute_command(*words)
    password = next(word[1:] for word in words if word.startswith(">"))
    yield gate.url().replace("redis://", f"redis://{words[2]}:{password}@")
    gate.client.acl_deluser(words[2])


def everything(url: str) -> Exception | None:
    """All that a job, a waiter and a keeper ask of Redis; gives the first thing that went wrong with it."""
    locks, gate = RedisLocks(url), Gate(url, JOB, "a", timeout=2)

    def wait() -> None:
        assert locks.client.blpop([wake_key(JOB)], timeout=1), "nobody woke the waiter"

    try:
        locks.ping()
        locks.acquire(JOB, "a", 30)
        locks.acquire(JOB, "a", 30)
        locks.acquire(JOB, "b", 30)
        gate.renew(30)
        locks.release(JOB, "a")
        wait()
        gate.renew(30)
        gate.release()
        wait()
        locks.owner(JOB)
    except Exception as error:
        return error
    finally:
        locks.close()
    return None


def test_a_run_of_the_documented_user(limited: str, gate: SystemRedis, database: str, truth: Truth) -> None:
    node = Node(limited, database, ttl=3)
    node.before = lambda _: (gate.client.delete(KEY), eventually(lambda: gate.client.get(KEY)))  # type: ignore[assignment]
    node.run()
    assert (node.errors, node.ran) == ([], [1])
    truth.check_done_once()


def test_the_documented_user_may_do_nothing_else(limited: str, gate: SystemRedis) -> None:
    with redis.Redis.from_url(limited) as client:
        for command in (["GET", "another"], ["SET", "another", "x"], ["KEYS", "*"], ["FLUSHALL"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.eval("return redis.call('GET', KEYS[1])", 1, "another")


def test_the_documented_user_may_do_nothing_that_is_not_needed(limited: str, gate: SystemRedis) -> None:
    words = documented_user()
    needed_by_others = {"+hello"}  # redis-py gets on without it, with a request more
    url = limited.removesuffix("/0") + "/1"  # another database than the first has to be selected
    assert url != limited
    for word in words:
        if word.startswith("+") and word not in needed_by_others:
            assert everything(url) is None
            gate.client.execute_command("ACL", "SETUSER", words[2], word.replace("+", "-"))
            gate.client.script_flush()
            assert isinstance(everything(url), (ExclusiveError, redis.RedisError)), f"not needed: {word}"
            gate.client.execute_command("ACL", "SETUSER", words[2], word)
    assert everything(url) is None
    assert everything(limited) is None


# addresses


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("redis+sentinel://a/m", Address("sentinel", "redis://gate/0", (("a", 26379),), "m")),
        (
            "rediss+sentinel://me:p%40@a:1,[::1]:2/the%20gate/3?ssl_ca_certs=/ca&sentinel_password=x",
            Address(
                "sentinel",
                "rediss://me:p%40@gate/3?ssl_ca_certs=%2Fca",
                (("a", 1), ("::1", 2)),
                "the gate",
                (("password", "x"),),
            ),
        ),
        ("redis+cluster://:pw@a,b:7000/", Address("cluster", "redis://:pw@gate/0", (("a", 6379), ("b", 7000)))),
        ("redis://a:b@c/1", Address("", "redis://a:b@c/1")),
    ],
)
def test_addresses_are_read(url: str, read: Address) -> None:
    assert Address.parse(url) == read


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h", "must be a URL that starts with redis://"),
        ("redis+x://h", "must be a URL that starts with"),
        ("unix+cluster://h", "must be a URL that starts with"),
        ("redis://h:x/0", "is no address"),
        ("redis+sentinel://h:26379", "must name the master"),
        ("redis+sentinel://h:26379/", "must name the master"),
        ("redis+sentinel:///m", "at least one host"),
        ("redis+sentinel://a,,b/m", "nothing between two commas"),
        ("redis+sentinel://a:x/m", "'a:x' is no address"),
        ("redis+sentinel://a:99999/m", "'a:99999' is no address"),
        ("redis+sentinel://a/m/x", "must end in the number of a database, not 'x'"),
        ("redis+sentinel://a/m/0/1", "must end in the number of a database, not '0/1'"),
        ("redis+cluster://me:secret@a/1?sentinel_password=secret", "a cluster has no database but 0"),
    ],
)
def test_addresses_that_cannot_work_are_refused_with_a_cure(url: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message) as refused:
        RedisLocks(url)
    assert "secret" not in str(refused.value)
