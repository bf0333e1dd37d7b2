"""Is this Redis fit to be the gate?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.errors import ExclusiveError
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.stores.redis.locks import RedisLocks

if TYPE_CHECKING:
    import redis

_SKEW = 2.0
_LAG = 10


def check(locks: RedisLocks) -> Iterator[Finding]:
    """Everything that the server tells; what it keeps to itself is said to be unknown."""
    try:
        locks.ping()
        locks.try_scripts()
    except ExclusiveError as error:
        yield Finding("error", "Redis", str(error), "start it, correct the address, or let the user run scripts")
        return
    for subject, server in _servers(locks.client):
        info = _told(server.info) or {}
        name = "Valkey" if "valkey_version" in info else "Redis"
        version = info.get("valkey_version") or info.get("redis_version")
        yield Finding("ok", subject, f"{name} {version or 'of unknown version'}; scripts run")
        yield from _check_eviction(subject, server)
        yield from _check_persistence(subject, info)
        yield from _check_replicas(subject, info)
        yield from _check_clock(subject, server)


def _servers(client: Any) -> Iterator[tuple[str, redis.Redis]]:
    """The server, or each primary of a cluster, and what to call it."""
    if not hasattr(client, "get_primaries"):
        yield "Redis", client
        return
    for node in client.get_primaries():
        yield f"Redis {node.host}:{node.port}", client.get_redis_connection(node)


def _check_eviction(subject: str, server: redis.Redis) -> Iterator[Finding]:
    policy = (_told(lambda: server.config_get("maxmemory-policy")) or {}).get("maxmemory-policy")
    if policy is None:
        yield Finding("note", subject, "doesn't tell its eviction policy", "make sure that it is noeviction")
    elif policy != "noeviction":
        text = f"evicts keys when memory is full ({policy}): locks would vanish, and Postgres alone would refuse"
        yield Finding("warning", subject, text, "set maxmemory-policy noeviction")


def _check_persistence(subject: str, info: dict[str, Any]) -> Iterator[Finding]:
    if info and not info.get("aof_enabled") and not info.get("rdb_last_save_time"):
        text = "keeps nothing on disk: after a restart the locks of running jobs come back with their next renewals"
        yield Finding("note", subject, text)


def _check_replicas(subject: str, info: dict[str, Any]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield Finding("error", subject, "is a replica: it can't be written to", "name the primary, or Sentinel")
    for key, replica in info.items():
        if key.startswith("slave") and isinstance(replica, dict) and int(replica.get("lag", 0)) > _LAG:
            text = f"replica {replica.get('ip')}:{replica.get('port')} lags {replica['lag']} s: a failover loses locks"
            yield Finding("warning", subject, text, "no job runs twice for it; look after the replica")


def _check_clock(subject: str, server: redis.Redis) -> Iterator[Finding]:
    told = _told(server.time)
    if told and abs(skew := told[0] + told[1] / 1e6 - time.time()) > _SKEW:
        yield Finding("note", subject, f"its clock is {skew:+.1f} s from this node's; nothing goes by it")


def _told(question: Any) -> Any:
    import redis

    try:
        return question()
    except redis.RedisError:
        return None
