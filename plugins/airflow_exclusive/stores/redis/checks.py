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

OLDEST = (6, 0)
_SKEW = 2.0
_LAG = 10
_ASK = "to see more, let the user +info +config|get +time"


def check(locks: RedisLocks) -> Iterator[Finding]:
    """Everything that the server tells; what it keeps to itself is said to be unknown."""
    try:
        locks.ping()
    except ExclusiveError as error:
        yield Finding("error", "Redis", str(error), "start it, or correct the address and the login")
        return
    try:
        locks.try_scripts()
    except ExclusiveError as error:
        cure = "scripts must run and write: docs/operations.md tells what the user needs, and of a full server"
        yield Finding("error", "Redis", str(error), cure)
    else:
        yield Finding("ok", "Redis", "scripts run")
    for subject, server in _servers(locks.client):
        info = _told(server.info) or {}
        yield from _check_version(subject, info)
        yield from _check_eviction(subject, server)
        yield from _check_persistence(subject, server, info)
        yield from _check_replicas(subject, info)
        yield from _check_clock(subject, server)


def _servers(client: Any) -> Iterator[tuple[str, redis.Redis]]:
    """The server, or each primary of a cluster, and what to call it."""
    if not hasattr(client, "get_primaries"):
        yield "Redis", client
        return
    for node in client.get_primaries():
        yield f"Redis {node.host}:{node.port}", client.get_redis_connection(node)


def _check_version(subject: str, info: dict[str, Any]) -> Iterator[Finding]:
    if not info:
        yield Finding("note", subject, "doesn't tell its version, its role and its replicas (INFO)", _ASK)
        return
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "of unknown version")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        yield Finding("warning", subject, f"{name} {version} is older than what is tested", "upgrade to 6 or newer")
    else:
        yield Finding("ok", subject, f"{name} {version}")


def _check_eviction(subject: str, server: redis.Redis) -> Iterator[Finding]:
    policy = _setting(server, "maxmemory-policy")
    if policy is None:
        text = "doesn't tell its eviction policy (CONFIG GET)"
        yield Finding("note", subject, text, f"make sure that it is noeviction; {_ASK}")
    elif policy != "noeviction":
        text = f"evicts keys when memory is full ({policy}): locks would vanish, and Postgres alone would refuse"
        yield Finding("warning", subject, text, "set maxmemory-policy noeviction")


def _check_persistence(subject: str, server: redis.Redis, info: dict[str, Any]) -> Iterator[Finding]:
    """By its settings: when it was saved last says nothing, since a server counts its start as a time of saving."""
    snapshots = _setting(server, "save")
    if info.get("aof_enabled") or snapshots:
        return
    if snapshots is None or not info:
        yield Finding("note", subject, "doesn't tell whether it keeps anything on disk (CONFIG GET, INFO)", _ASK)
    else:
        text = "keeps nothing on disk: after a restart the locks of running jobs come back with their next renewals"
        yield Finding("note", subject, text)


def _check_replicas(subject: str, info: dict[str, Any]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield Finding("error", subject, "is a replica: it can't be written to", "name the primary, or Sentinel")
    for key, replica in info.items():
        if key.startswith("slave") and isinstance(replica, dict) and (behind := _behind(replica)):
            text = f"replica {replica.get('ip')}:{replica.get('port')} {behind}: a failover loses locks"
            yield Finding("warning", subject, text, "no job runs twice for it; look after the replica")


def _behind(replica: dict[str, Any]) -> str:
    """What keeps a replica from being up to date; empty for a good one."""
    if replica.get("state", "online") != "online":
        return f"isn't in step yet ({replica['state']})"
    lag = int(replica.get("lag", 0))
    return f"lags {lag} s" if lag > _LAG else ""


def _check_clock(subject: str, server: redis.Redis) -> Iterator[Finding]:
    if abs(skew := _ahead(server) or 0.0) > _SKEW:
        text = f"its clock is {skew:+.1f} s from this node's; no lease goes by it, but a lock ends by it"
        cure = "keep it in step, its replicas' too: set back, it may hold up the takeover from a lost node by a ttl"
        yield Finding("note", subject, text, cure)


def clock_ahead(locks: RedisLocks) -> float | None:
    """Seconds by which its clock is ahead of this node's; the largest difference in a cluster. None: it isn't told."""
    try:
        locks.ping()
    except ExclusiveError:
        return None
    told = [ahead for _, server in _servers(locks.client) if (ahead := _ahead(server)) is not None]
    return max(told, key=abs, default=None)


def _ahead(server: redis.Redis) -> float | None:
    told = _told(server.time)
    return told[0] + told[1] / 1e6 - time.time() if told else None


def _setting(server: redis.Redis, name: str) -> str | None:
    """A setting of the server; None where it doesn't tell."""
    told = _told(lambda: server.config_get(name))
    return None if told is None else told.get(name)


def _told(question: Any) -> Any:
    import redis

    try:
        return question()
    except redis.RedisError:
        return None
