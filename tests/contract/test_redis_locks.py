"""The gate on a real server: who has the lock, for how long, and who is woken."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from airflow_exclusive.core.errors import InvalidSetting, StoreMisconfigured, StoreUnavailable
from airflow_exclusive.keeper.kept_lock import KeptLock
from airflow_exclusive.stores.redis.locks import RedisLocks
from airflow_exclusive.stores.redis.scripts import lock_key, wake_key
from tests.support.waiting import eventually, stays

JOB = "备份 {daily}"
KEY = lock_key(JOB)


@pytest.fixture
def locks(redis_url: str) -> Iterator[RedisLocks]:
    made = RedisLocks(redis_url)
    yield made
    made.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


def test_the_first_one_gets_the_lock_with_its_expiry(locks: RedisLocks, client: redis.Redis) -> None:
    answer = locks.acquire(JOB, "a", 30)
    assert (answer.mine, answer.owner, answer.seconds_left) == (True, "a", 30)
    assert client.get(KEY) == "a"
    assert 29_000 < client.pttl(KEY) <= 30_000
    assert client.keys() == [KEY]


def test_another_one_learns_who_has_it_and_for_how_long(locks: RedisLocks) -> None:
    locks.acquire(JOB, "a", 30)
    answer = locks.acquire(JOB, "b", 90)
    assert (answer.mine, answer.owner) == (False, "a")
    assert 29 < answer.seconds_left <= 30


def test_who_asks_again_after_a_lost_reply_finds_its_own_lock(locks: RedisLocks, client: redis.Redis) -> None:
    locks.acquire(JOB, "a", 5)
    assert locks.acquire(JOB, "a", 30).mine
    assert client.pttl(KEY) > 29_000


def test_a_ticket_is_traded_for_a_lock_once(locks: RedisLocks, client: redis.Redis) -> None:
    locks.acquire(JOB, "ticket", 5)
    assert not locks.acquire(JOB, "a", 30, "another ticket").mine
    answer = locks.acquire(JOB, "a", 30, "ticket")
    assert (answer.mine, answer.owner, client.get(KEY)) == (True, "a", "a")
    assert client.pttl(KEY) > 29_000
    assert locks.acquire(JOB, "a", 30, "ticket").mine, "its reply may have been lost"
    assert not locks.acquire(JOB, "b", 30, "ticket").mine
    assert not locks.acquire(JOB, "b", 30).mine


def test_two_jobs_do_not_know_each_other(locks: RedisLocks) -> None:
    assert locks.acquire("a", "x", 30).mine
    assert locks.acquire("b", "y", 30).mine


def test_the_lock_ends_by_itself(locks: RedisLocks) -> None:
    locks.acquire(JOB, "a", 0.05)
    assert eventually(lambda: locks.acquire(JOB, "b", 30).mine, 5)


def test_only_the_owner_gives_the_lock_back(locks: RedisLocks, client: redis.Redis) -> None:
    locks.acquire(JOB, "a", 30)
    assert not locks.release(JOB, "b")
    assert not locks.release(JOB, "b", keep_for=5)
    assert client.get(KEY) == "a"
    assert client.pttl(KEY) > 29_000
    assert locks.release(JOB, "a")
    assert client.get(KEY) is None
    assert not locks.release(JOB, "a")


def test_kept_for_a_while_it_ends_then_and_wakes_nobody(locks: RedisLocks, client: redis.Redis) -> None:
    locks.acquire(JOB, "a", 30)
    assert locks.release(JOB, "a", keep_for=2)
    assert 1_000 < client.pttl(KEY) <= 2_000
    assert client.keys() == [KEY]


def test_whose_lock_it_is_can_be_seen(locks: RedisLocks) -> None:
    assert locks.owner(JOB) is None
    locks.acquire(JOB, "a", 30)
    assert locks.owner(JOB) == "a"
    locks.release(JOB, "a")
    assert locks.owner(JOB) is None


def test_a_release_leaves_no_key_behind_for_long(locks: RedisLocks, client: redis.Redis) -> None:
    for _ in range(5):
        locks.acquire(JOB, "a", 30)
        locks.release(JOB, "a")
    assert client.keys() == [wake_key(JOB)]
    assert client.llen(wake_key(JOB)) == 1
    assert 0 < client.pttl(wake_key(JOB)) <= 2_000


def test_a_release_wakes_one_waiter_and_no_more(locks: RedisLocks, client: redis.Redis, redis_url: str) -> None:
    def wait() -> None:
        waiter = RedisLocks(redis_url, timeout=240)  # far longer than the test takes
        waiter.wait_for_release(JOB, 120)
        waiter.close()

    def waiting() -> int:
        return sum(found["cmd"] == "blpop" for found in client.client_list() if found["db"] == str(db))

    db = client.connection_pool.connection_kwargs["db"]
    waiters = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    eventually(lambda: waiting() == 3, 60)
    for left in (2, 1, 0):
        locks.acquire(JOB, "a", 30)
        locks.release(JOB, "a")
        eventually(lambda left=left: waiting() <= left, 60)  # type: ignore[misc]
        assert stays(lambda left=left: waiting() == left, 0.3)  # type: ignore[misc]
    for waiter in waiters:
        waiter.join(60)


def test_a_wake_up_that_came_before_the_waiter_is_not_lost(locks: RedisLocks) -> None:
    locks.acquire(JOB, "a", 30)
    locks.release(JOB, "a")
    began = time.monotonic()
    locks.wait_for_release(JOB, 5)
    assert time.monotonic() - began < 1


def test_a_server_that_forgot_the_scripts_gets_them_again(locks: RedisLocks, client: redis.Redis) -> None:
    locks.acquire(JOB, "a", 30)
    client.script_flush()
    assert locks.acquire(JOB, "a", 30).mine
    client.script_flush()
    assert locks.release(JOB, "a")


def test_among_many_at_once_one_gets_the_lock(redis_url: str) -> None:
    start = threading.Barrier(16)
    winners: list[str] = []

    def ask(owner: str) -> None:
        asker = RedisLocks(redis_url, timeout=60)
        asker.ping()  # to be connected, so that all ask at once
        start.wait()
        if asker.acquire(JOB, owner, 30).mine:
            winners.append(owner)
        asker.close()

    askers = [threading.Thread(target=ask, args=[f"owner {n}"]) for n in range(16)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(winners) == 1


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        locks = RedisLocks(f"redis://me:secret@127.0.0.1:{port}/0", timeout=1)
        with pytest.raises(StoreUnavailable, match=f"redis://me:\\*\\*\\*@127.0.0.1:{port}/0 doesn't answer") as failed:
            locks.acquire(JOB, "a", 30)
        assert "secret" not in str(failed.value)
        locks.close()


REQUESTS: dict[str, Callable[[RedisLocks], object]] = {
    "acquire": lambda locks: locks.acquire(JOB, "a", 30),
    "release": lambda locks: locks.release(JOB, "a"),
}


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_server_that_says_nothing_is_asked_twice_each_time_on_a_new_connection(request_: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        locks = RedisLocks(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout=0.1)
        with pytest.raises(StoreUnavailable, match="doesn't answer"):
            REQUESTS[request_](locks)
        locks.close()
        silent.setblocking(False)
        for _ in range(2):
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_who_waits_sleeps_on_past_the_limit_for_an_answer(redis_url: str, client: redis.Redis) -> None:
    """No wait takes longer than an answer may, so a longer one is several."""
    waiter = RedisLocks(redis_url, timeout=0.2)
    began = time.monotonic()
    waiter.wait_for_release(JOB, 1)
    assert time.monotonic() - began >= 1
    waiter.close()


def test_a_wrong_password_is_a_matter_for_the_administrator(redis_url: str) -> None:
    locks = RedisLocks(redis_url.replace("redis://", "redis://nobody:secret@"))
    with pytest.raises(StoreMisconfigured, match=r"nobody:\*\*\*@") as failed:
        locks.acquire(JOB, "a", 30)
    assert "secret" not in str(failed.value)
    locks.close()


def test_a_key_of_somebody_elses_making_is_told(locks: RedisLocks, client: redis.Redis) -> None:
    client.rpush(KEY, "not a lock")
    with pytest.raises(StoreUnavailable, match="can't serve the lock"):
        locks.acquire(JOB, "a", 30)


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="must be a URL that starts with redis://") as refused:
        RedisLocks("http://me:secret@host")
    assert "secret" not in str(refused.value)


# the keeper's own connection


@pytest.fixture
def gate(redis_url: str) -> KeptLock:
    return KeptLock(redis_url, JOB, "a", timeout=2)


def test_the_keeper_keeps_the_lock_of_its_owner(gate: KeptLock, locks: RedisLocks, client: redis.Redis) -> None:
    locks.acquire(JOB, "a", 1)
    assert gate.renew(30)
    assert client.get(KEY) == "a"
    assert client.pttl(KEY) > 29_000


def test_the_keeper_puts_back_a_lock_that_redis_lost(gate: KeptLock, client: redis.Redis) -> None:
    assert gate.renew(30)
    client.flushdb()
    assert gate.renew(30)
    assert client.get(KEY) == "a"


def test_the_keeper_leaves_the_lock_of_another_owner_alone(
    gate: KeptLock, locks: RedisLocks, client: redis.Redis
) -> None:
    locks.acquire(JOB, "b", 30)
    assert not gate.renew(90)
    gate.release()
    assert client.get(KEY) == "b"
    assert client.pttl(KEY) <= 30_000


def test_the_keeper_connects_again_when_its_connection_broke(gate: KeptLock, client: redis.Redis) -> None:
    assert gate.renew(30)
    db = str(client.connection_pool.connection_kwargs["db"])
    for other in client.client_list():
        if other["db"] == db and other["id"] != str(client.client_id()):
            client.client_kill_filter(_id=other["id"])
    with pytest.raises(StoreUnavailable):
        gate.renew(30)
    assert gate.renew(30)
