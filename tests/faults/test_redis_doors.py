"""The ways in: TLS, passwords, limited users, Sentinels, clusters; for workers, keepers and waiters in a triggerer."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting, StoreMisconfigured, StoreUnavailable
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.patience import Elsewhere
from airflow_exclusive.core.standby import Woken
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.keeper.kept_lock import KeptLock
from airflow_exclusive.standby import gate as shared
from airflow_exclusive.stores.redis.address import Address
from airflow_exclusive.stores.redis.async_locks import AsyncRedisLocks
from airflow_exclusive.stores.redis.locks import RedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key, wake_key
from deploy.embedded.ports import LOOPBACK
from tests.contract.test_standby import Place, place, played, quick  # noqa: F401
from tests.support.certificates import Certificates
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import settings
from tests.support.redis_groups import GuardedPair, RedisCluster
from tests.support.servers import Door, SystemRedis
from tests.support.waiting import eventually

KEY = lock_key(JOB)
ANOTHER = "another job"


@pytest.fixture(scope="module")
def locked_pair(server_folder: Path, locked_door: Door) -> Iterator[GuardedPair]:
    """With TLS alone; the Sentinels want another password than what they watch."""
    sentinels = Door(locked_door.certificates, "sentinels=100%&more")
    made = GuardedPair(server_folder / "locked-pair", locked_door, sentinels)
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture(scope="module")
def locked_cluster(server_folder: Path, locked_door: Door) -> Iterator[RedisCluster]:
    """With TLS alone, and a password."""
    made = RedisCluster(server_folder / "locked-cluster", locked_door)
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture
def gate(breakable_redis: SystemRedis) -> SystemRedis:
    breakable_redis.client.flushall()
    return breakable_redis


def documented_user() -> list[str]:
    """The words of the line in docs/operations.md that makes a limited user."""
    (line,) = [line for line in operations().splitlines() if line.startswith("ACL SETUSER ")]
    return line.split()


def operations() -> str:
    return (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def login(words: list[str]) -> str:
    """Of a user made by these words, as part of a URL."""
    return f"{words[2]}:" + next(word[1:] for word in words if word.startswith(">"))


@pytest.fixture
def limited(gate: SystemRedis) -> Iterator[str]:
    words = documented_user()
    gate.client.execute_command(*words)
    yield gate.url().replace("redis://", f"redis://{login(words)}@")
    gate.client.acl_deluser(words[2])


@pytest.fixture
def home(request: pytest.FixtureRequest, way: str) -> SystemRedis:
    """The server that has the job's lock."""
    server = request.getfixturevalue(SERVERS[way])
    if isinstance(server, RedisCluster):
        return server.home(KEY)
    return server.master if isinstance(server, GuardedPair) else server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, way: str, locked_door: Door) -> str:
    if way == "a limited user":
        return str(request.getfixturevalue("limited"))
    server = request.getfixturevalue(SERVERS[way])
    return locked_door.url("", f"{LOOPBACK}:{server.port}/0") if way == "TLS" else str(server.url)


def opened(*ports: int) -> int:
    """This process's connections to them."""
    return sum(each.raddr.port in ports for each in psutil.Process().net_connections("tcp") if each.raddr)


SERVERS = {
    "TLS": "tls_redis",
    "a limited user": "gate",
    "Sentinels": "locked_pair",
    "a cluster": "locked_cluster",
}
by_each_way = pytest.mark.parametrize("way", SERVERS)


@by_each_way
def test_waiter_worker_and_keeper_get_in(place: Place, home: SystemRedis) -> None:  # noqa: F811
    woken = played(lambda: place.turn("ticket"))
    assert (woken.outcome, home.client.get(KEY)) == ("free", "ticket")

    asked = {"run_key": TICK, "elsewhere": Elsewhere(ticket="ticket"), "settings": settings(3)}
    answer = place.guard.admit(JOB, **asked)
    assert isinstance(answer, Admitted)
    assert home.client.get(KEY) == answer.lease.owner
    home.client.delete(KEY)
    eventually(lambda: home.client.get(KEY) == answer.lease.owner)  # the keeper has got in, too
    answer.lease.finish()
    assert home.client.get(KEY) is None
    assert home.client.exists(wake_key(JOB))


@by_each_way
def test_an_answer_that_nobody_waits_for_any_more_is_not_taken_for_another(redis_url: str, home: SystemRedis) -> None:
    """A trigger may be cancelled when it has asked, and its connection is everybody's."""
    assert home.daemon is not None
    daemon = home.daemon

    async def ask() -> tuple[bool, str]:
        locks = AsyncRedisLocks(redis_url)
        try:
            await locks.acquire(JOB, "first", 30)
            daemon.send(signal.SIGSTOP)
            asked = asyncio.create_task(locks.acquire(JOB, "cancelled", 30))
            for _ in range(100):  # it is sent without the server's help
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            daemon.send(signal.SIGCONT)
            answer = await locks.acquire(JOB, "first", 30)
            return answer.mine, answer.owner
        finally:
            daemon.send(signal.SIGCONT)
            await locks.close()

    assert played(ask) == (True, "first")
    home.client.delete(KEY)


@pytest.mark.parametrize("way", ["TLS"])
def test_a_server_that_is_frozen_when_the_last_waiter_leaves_takes_nothing_from_its_answer(
    redis_url: str, home: SystemRedis
) -> None:
    """To close a connection over TLS takes an answer, and the client gives up on that with an error."""
    assert home.daemon is not None
    daemon = home.daemon

    async def ask() -> bool:
        try:
            async with shared(redis_url) as locks:
                answer = await locks.acquire(JOB, "first", 30)
                daemon.send(signal.SIGSTOP)
        finally:
            daemon.send(signal.SIGCONT)
        return answer.mine

    assert played(ask)
    home.client.delete(KEY)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["TLS", "Sentinels", "a cluster"])
def test_a_wrong_password_is_told_at_once_and_not_shown(redis_url: str) -> None:
    url = redis_url.replace("p%40ss%3Aword%2F1", "wr%40ng")
    assert url != redis_url
    locks = RedisLocks(url)

    for acquire in (lambda: locks.acquire(JOB, "a", 30), lambda: played(lambda: reserve(url))):
        with pytest.raises(StoreMisconfigured, match="refuses the user") as failed:
            acquire()
        assert "ng@" not in str(failed.value)
    with pytest.raises(StoreUnavailable, match="invalid username-password pair"):
        KeptLock(url, JOB, "a", timeout=2).renew(30)
    locks.close()
    gc.collect()  # in Python 3.10, redis-py leaves a connection over TLS that was refused to the garbage collector


@pytest.mark.parametrize("way", ["TLS", "Sentinels", "a cluster"])
def test_a_server_whose_certificate_is_anothers_is_not_trusted(redis_url: str, tmp_path: Path) -> None:
    stranger = Certificates.make(tmp_path / "stranger")
    url = re.sub(r"ssl_ca_certs=[^&]*", f"ssl_ca_certs={stranger.authority}", redis_url)
    locks = RedisLocks(url)
    told = "certificate verify failed|No master found"  # redis-py keeps to itself what it heard of Sentinels
    with pytest.raises(StoreUnavailable, match=told):
        locks.acquire(JOB, "a", 30)
    with pytest.raises(StoreUnavailable, match=told):
        KeptLock(url, JOB, "a", timeout=2).renew(30)
    locks.close()


# Sentinels


def test_the_reasons_of_sentinels_that_refuse_are_told_and_no_more(locked_pair: GuardedPair) -> None:
    locks = RedisLocks(re.sub("sentinel_password=[^&]*", "sentinel_password=secret", locked_pair.url))
    with pytest.raises(StoreUnavailable, match=r"'the-gate' : [\w:]*AuthenticationError") as failed:
        locks.acquire(JOB, "a", 30)
    assert "<redis" not in str(failed.value)
    assert "secret" not in str(failed.value)
    locks.close()


def test_nothing_stays_open_at_the_sentinels(locked_pair: GuardedPair) -> None:
    ports = [sentinel.port for sentinel in locked_pair.sentinels]

    async def ask() -> tuple[Any, int]:
        async with shared(locked_pair.url) as waiting:
            await waiting.acquire(ANOTHER, "a", 1)
            during = opened(*ports)
        return waiting, during

    locks, before = RedisLocks(locked_pair.url), opened(*ports)
    locks.acquire(ANOTHER, "a", 1)
    assert opened(*ports) > before
    locks.close()
    assert opened(*ports) == before
    waiting, during = played(ask)
    assert during > before
    assert opened(*ports) == before
    del waiting  # until here, so that it isn't the garbage collector that has closed them


def test_nothing_stays_open_at_a_cluster_that_has_lost_a_master(cluster: RedisCluster) -> None:
    home = cluster.home(KEY)
    ports = [server.port for server in cluster.servers if server is not home]
    before = opened(*ports)

    async def ask() -> tuple[Any, int]:
        async with shared(cluster.url) as waiting:
            for n in range(10):
                await waiting.acquire(f"another job {n}", "a", 1)
            home.kill()
            with pytest.raises(StoreUnavailable):
                await waiting.acquire(JOB, "a", 1)
            during = opened(*ports)
        return waiting, during

    try:
        waiting, during = played(ask)
        assert during > before
        assert opened(*ports) == before
        del waiting
    finally:
        home.start()
        cluster.wait()


@pytest.mark.parametrize("how", ["dies", "is replaced"])
def test_a_failover_while_a_waiter_waits_loses_no_wait(
    guarded_pair: GuardedPair,
    database: str,
    how: str,
    quick: None,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "airflow_exclusive.core.standby")
    with JobGuard(redis=guarded_pair.url, postgres=database) as guard:
        here = Place(guarded_pair.url, database, guard)
        runner = here.hold("the tick before", settings=settings(60))  # its lock may outlive it on the replica

        async def waiter() -> Woken:
            async with shared(here.redis) as locks:
                await locks.acquire(ANOTHER, "a", 1)  # all triggers share a connection, and it is to the master
                turn = asyncio.create_task(here.turn("ticket"))
                await asyncio.to_thread(FAILOVERS[how], guarded_pair, runner)
                return await turn

        assert played(waiter).outcome == "free"
        answer = guard.admit(JOB, run_key=TICK, elsewhere=Elsewhere(ticket="ticket"), settings=settings(30))
        assert isinstance(answer, Admitted)
        assert guarded_pair.replica.client.get(KEY) == answer.lease.owner
        answer.lease.finish()
    if how == "dies":
        assert "doesn't answer" in caplog.text, "it was the waiter's turn while there was no master"


def _dies(pair: GuardedPair, runner: Lease) -> None:
    pair.master.kill()
    runner.finish("failed")
    pair.wait_for_failover()


def _is_replaced(pair: GuardedPair, runner: Lease) -> None:
    pair.sentinels[0].client.sentinel_failover("the-gate")
    pair.wait_for_failover()
    eventually(lambda: pair.master.client.role()[0] == "slave", 20)
    runner.finish("failed")


FAILOVERS: dict[str, Callable[[GuardedPair, Lease], None]] = {"dies": _dies, "is replaced": _is_replaced}


# limited users


async def reserve(url: str) -> None:
    """What a waiter in a triggerer asks."""
    locks = AsyncRedisLocks(url)
    try:
        await locks.acquire(JOB, "ticket", 30)
    finally:
        await locks.close()


def everything(url: str) -> Exception | None:
    """All that jobs, waiters and keepers ask of Redis; gives the first thing that went wrong with it."""
    locks, gate = RedisLocks(url), KeptLock(url, JOB, "a", timeout=2)

    def wait() -> None:
        assert locks.client.blpop([wake_key(JOB)], timeout=1), "nobody woke the waiter"

    try:
        locks.ping()
        played(lambda: reserve(url))
        locks.acquire(JOB, "a", 30, "ticket")
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


def test_in_a_cluster_it_needs_what_is_documented_for_one(cluster: RedisCluster) -> None:
    words = documented_user()
    more = documented("In a cluster it needs")
    url = cluster.url.replace("://", f"://{login(words)}@")

    def let(*rules: str) -> None:
        for server in cluster.servers:
            server.client.execute_command("ACL", "SETUSER", words[2], *rules)

    let(*words[3:], *more)
    assert everything(url) is None
    for word in more:
        let(word.replace("+", "-"))
        with being_moved(cluster) if word == "+asking" else nullcontext():
            assert isinstance(everything(url), ExclusiveError), f"not needed: {word}"
        let(word)
    with being_moved(cluster):
        played(lambda: reserve(url))
        locks = RedisLocks(url)
        assert locks.acquire(JOB, "a", 30, "ticket").mine
        locks.close()
    for server in cluster.servers:
        server.client.acl_deluser(words[2])
        server.client.flushall()


@contextmanager
def being_moved(cluster: RedisCluster) -> Iterator[None]:
    """The job's slot, from one master to another."""
    source = cluster.home(KEY)
    target = next(server for server in cluster.servers if server is not source)
    source_id, target_id = (server.client.execute_command("CLUSTER", "MYID") for server in (source, target))
    slot = source.client.execute_command("CLUSTER", "KEYSLOT", KEY)
    for server in (source, target):
        server.client.flushall()
    target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    try:
        yield
    finally:
        target.client.flushall()
        for server in (source, target):
            server.client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")


def test_a_user_of_the_sentinels_needs_what_is_documented(locked_pair: GuardedPair) -> None:
    words = documented("A user of the Sentinels needs")
    url = re.sub("sentinel_password=[^&]*", "sentinel_username=asker&sentinel_password=secret", locked_pair.url)

    def let(*rules: str) -> None:
        for sentinel in locked_pair.sentinels:
            sentinel.client.execute_command("ACL", "SETUSER", "asker", *rules)

    let("reset", "on", ">secret", "-@all", *words)
    assert everything(url) is None
    let("-sentinel|masters")
    assert isinstance(everything(url), StoreMisconfigured)
    let("+sentinel|masters", "-hello")
    assert everything(url) is None, "redis-py gets on without it, with a request more"


def documented(sentence: str) -> list[str]:
    """The rules in docs/operations.md that follow these words."""
    (rules,) = re.findall(rf"{sentence} `([^`]+)`", operations())
    return rules.split()


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
        ("redis://h/0?decode_responses=True", "leave decode_responses out"),
        ("redis+cluster://h?decode_responses=False", "leave decode_responses out"),
        ("redis+cluster://me:secret@a/1?sentinel_password=secret", "a cluster has no database but 0"),
    ],
)
def test_addresses_that_cannot_work_are_refused_with_a_cure(url: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message) as refused:
        RedisLocks(url)
    assert "secret" not in str(refused.value)
