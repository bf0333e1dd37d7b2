"""`LockStore` on redis-py."""

from __future__ import annotations

import re
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.errors import InvalidSetting, StoreMisconfigured, StoreUnavailable
from airflow_exclusive.core.job import new_owner
from airflow_exclusive.core.ports import LockAnswer
from airflow_exclusive.stores.peer import TLS_REQUEST, who_answers
from airflow_exclusive.stores.redacted import redacted
from airflow_exclusive.stores.redis.address import Address, clients
from airflow_exclusive.stores.redis.scripts import WAKE_UP_LASTS_MS, digest, lock_key, lua, milliseconds, wake_key

if TYPE_CHECKING:
    import redis

ANSWER_WITHIN = 2.0
"""Seconds after which a connection to Redis without an answer counts as broken. Twice that has to be less than the 5 s
after which Airflow kills a task that is told to stop: who leaves tries to give its lock back until then."""

TRIES_AGAIN = 1
"""On a new connection, as a lost answer needs it. Who has to be patient asks anew."""

_PROBE = "airflow-exclusive doctor"
_SHORTEST_WAIT = 0.01
_REPRESENTATION = re.compile(r"<redis\..*?> - ")
"""Of the client of each Sentinel that didn't help, with all its settings, before the reason."""
_NO_GREETING = re.compile(r"Protocol Error|[Cc]onnection (closed|reset)|EOF occurred")


class RedisLocks:
    """The gate at `url` (see `address.py`).

    timeout: seconds to wait for a connection or a reply before the request is sent again.
    """

    def __init__(self, url: str, *, timeout: float = ANSWER_WITHIN) -> None:
        self._address = Address.parse(url)
        self._url, self._timeout = url, timeout

    def acquire(self, job_name: str, owner: str, ttl: float, ticket: str = "") -> LockAnswer:
        args = [owner, milliseconds(ttl), *([ticket] if ticket else [])]
        return lock_answer(self._call("acquire", [lock_key(job_name)], args))

    def release(self, job_name: str, owner: str, keep_for: float = 0.0, *, wake: bool = True) -> bool:
        args = [owner, milliseconds(keep_for) if keep_for > 0 else 0, WAKE_UP_LASTS_MS if wake else 0]
        return bool(self._call("release", [lock_key(job_name), wake_key(job_name)], args))

    def owner(self, job_name: str) -> str | None:
        with ErrorsMapped(self._url):
            found: Any = self.client.get(lock_key(job_name))
        return None if found is None else str(found, "utf-8")

    def wait_for_release(self, job_name: str, timeout: float) -> None:
        """Sleeps on the wake-up list; where the server doesn't answer, just sleeps."""
        until = time.monotonic() + timeout
        woken: Any = None
        try:
            with ErrorsMapped(self._url):
                while not woken and (left := until - time.monotonic()) > 0:
                    # The reply must come before the socket's own timeout, or a wake-up would get lost. 0 is for ever.
                    pause = max(_SHORTEST_WAIT, min(left, self._timeout / 2))
                    woken = self.client.blpop([wake_key(job_name)], timeout=pause)
        except StoreUnavailable:
            time.sleep(max(0.0, min(until - time.monotonic(), 1.0)))

    def ping(self) -> None:
        with ErrorsMapped(self._url):
            self.client.ping()

    def try_scripts(self) -> None:
        """Take and give back a lock that is nobody's."""
        owner = new_owner()
        self.acquire(_PROBE, owner, ttl=1.0)
        self.release(_PROBE, owner)
        self.wait_for_release(_PROBE, timeout=0.1)  # that wake-up

    def close(self) -> None:
        if "client" in self.__dict__:
            for client in clients(self.client):
                client.close()

    @cached_property
    def client(self) -> redis.Redis:
        return self._address.connect(timeout=self._timeout, tries_again=TRIES_AGAIN)

    def _call(self, script: str, keys: list[str], args: list[Any]) -> Any:
        from redis.exceptions import ReadOnlyError

        with ErrorsMapped(self._url):
            try:
                return self._evaluated(script, keys, args)
            except ReadOnlyError:
                if (pool := pool_of(self.client)) is None:
                    raise
                pool.disconnect()
                return self._evaluated(script, keys, args)

    def _evaluated(self, script: str, keys: list[str], args: list[Any]) -> Any:
        from redis.exceptions import NoScriptError

        try:
            return self.client.evalsha(digest(script), len(keys), *keys, *args)
        except NoScriptError:
            return self.client.eval(lua(script), len(keys), *keys, *args)


def lock_answer(reply: Any) -> LockAnswer:
    """What acquire.lua returned."""
    mine, holder, left_ms = reply
    return LockAnswer(bool(mine), holder.decode(), max(0, left_ms) / 1000)


def pool_of(client: Any) -> Any:
    """The connections to what may have been a master once: its address may lead to another server by now.

    None for a cluster, whose client sees to that by itself.
    """
    return getattr(client, "connection_pool", None)


class ErrorsMapped:
    """Driver errors as ours. A class, since every request passes here: a generator takes ten times as long.

    may_ask: who it is that hangs up, or answers in its own way, which takes a moment.
    """

    def __init__(self, url: str, *, may_ask: bool = True) -> None:
        self._url, self._may_ask = url, may_ask

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        import redis

        if isinstance(error, (TypeError, ValueError)):  # redis-py reads the options only now, and quotes them
            cure = "can't be used: correct its options, of which redis-py doesn't know one or can't read its value"
            raise InvalidSetting("redis", redacted(self._url), cure) from None
        refused = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
        # Of a cluster the error may only say that no node could be asked; why is its cause.
        if isinstance(error, refused) or isinstance(error.__cause__, refused):
            raise StoreMisconfigured(f"Redis at {redacted(self._url)} refuses the user: {error}") from error
        if self._may_ask and _NO_GREETING.search(str(error)):
            _check_who_answers(self._url)
        if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
            text = _REPRESENTATION.sub("", str(error))
            raise StoreUnavailable(f"Redis at {redacted(self._url)} doesn't answer: {text}") from error
        if isinstance(error, (redis.RedisError, redis.exceptions.RedisClusterException)):
            raise StoreUnavailable(f"Redis at {redacted(self._url)} can't serve the lock: {error}") from error


def _check_who_answers(url: str) -> None:
    server = Address.parse(url).one_server()
    if server and (name := who_answers(*server, TLS_REQUEST)) not in ("", "Redis"):
        cure = f"{name} answers there, and not as Redis does: give the address of the gate"
        raise InvalidSetting("redis", redacted(url), cure)
