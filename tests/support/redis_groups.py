"""Redis servers that belong together: a cluster, and a master with its replica and sentinels."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import redis

from deploy.embedded.ports import LOOPBACK, free_port
from tests.support.servers import Door, SystemRedis
from tests.support.waiting import eventually

SLOTS = 16384
MASTER = "the-gate"
_OPEN = Door()


class RedisCluster:
    """Three masters that share the slots."""

    def __init__(self, folder: Path, door: Door = _OPEN) -> None:
        self.folder, self._door = folder, door
        self.servers = [SystemRedis(folder / str(n), self._settings()) for n in range(3)]

    @property
    def url(self) -> str:
        return self._door.url("cluster", _hosts(self.servers))

    def start(self) -> RedisCluster:
        for server in self.servers:
            server.start()
        first = self.servers[0].client
        share = SLOTS // 3 + 1
        for n, server in enumerate(self.servers):
            last = min(share * (n + 1), SLOTS) - 1
            server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", share * n, last)
            server.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            if n:
                first.execute_command("CLUSTER", "MEET", LOOPBACK, server.port, server.setting("cluster-port"))
        self.wait()
        return self

    def wait(self) -> None:
        """Until each of them knows the others and believes that all slots are served."""
        eventually(lambda: all(_cluster_is_whole(server) for server in self.servers), 30)

    def home(self, key: str) -> SystemRedis:
        """The master that has the key."""
        slot = int(self.servers[0].client.execute_command("CLUSTER", "KEYSLOT", key))
        return self.servers[slot // (SLOTS // 3 + 1)]

    def remove(self) -> None:
        for server in self.servers:
            server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _settings(self) -> dict[str, object]:
        return {
            **self._door.settings(),
            "cluster-port": free_port(),  # the default is in the range of outgoing connections
            "cluster-enabled": "yes",
            "cluster-node-timeout": 2000,
            "cluster-announce-ip": LOOPBACK,
            "databases": 1,
        }


def _cluster_is_whole(server: SystemRedis) -> bool:
    try:
        told = server.client.execute_command("CLUSTER", "INFO")
    except redis.ConnectionError:
        return False
    if isinstance(told, str):
        told = dict(line.split(":", 1) for line in told.split())
    return told["cluster_state"] == "ok" and told["cluster_known_nodes"] == "3"


def _hosts(servers: Sequence[SystemRedis]) -> str:
    return ",".join(f"{LOOPBACK}:{server.port}" for server in servers)


class GuardedPair:
    """A master with one replica, and three sentinels who agree after a second that it is down.

    door, watched_by: of the two, and of the sentinels.
    """

    def __init__(self, folder: Path, door: Door = _OPEN, watched_by: Door = _OPEN) -> None:
        self._door, self._watched_by = door, watched_by
        in_step = {**door.settings(), "repl-diskless-sync-delay": 0}
        self.master = SystemRedis(folder / "master", in_step)
        follow = {**in_step, **door.settings(), "replicaof": f"{LOOPBACK} {self.master.port}"}
        self.replica = SystemRedis(folder / "replica", follow)
        watch = [
            f"monitor {MASTER} {LOOPBACK} {self.master.port} 2",
            f"down-after-milliseconds {MASTER} 1000",
            f"failover-timeout {MASTER} 5000",
        ]
        if door.password:
            watch.append(f"auth-pass {MASTER} {door.password}")
        if watched_by.password:
            watch.append(f"sentinel-pass {watched_by.password}")
        self.sentinels = [
            SystemRedis(folder / f"sentinel-{n}", {**watched_by.settings(), "sentinel": watch}, sentinel=True)
            for n in range(3)
        ]

    @property
    def url(self) -> str:
        return self._door.url(
            "sentinel", f"{_hosts(self.sentinels)}/{MASTER}/0", sentinel_password=self._watched_by.password
        )

    def start(self) -> GuardedPair:
        self.master.start()
        self.replica.start()
        eventually(lambda: self.replica.client.info("replication")["master_link_status"] == "up", 20)
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            eventually(lambda sentinel=sentinel: self._knows_all(sentinel), 20)  # type: ignore[misc]
        return self

    def cut_replication(self) -> None:
        """From here on the replica gets nothing, and believes that all is well with what it has."""
        self.replica.client.config_set("masterauth", "a password that the master doesn't want")
        self.master.client.client_kill_filter(_type="replica")
        eventually(lambda: self.replica.client.info("replication")["master_link_status"] == "down", 10)

    def fail_over(self) -> None:
        """The master dies, and its replica becomes what the sentinels say is the master."""
        self.master.kill()
        self.wait_for_failover()

    def wait_for_failover(self) -> None:
        eventually(lambda: self._told_by(self.sentinels[0]) == self.replica.port, 30)
        eventually(lambda: self.replica.client.role()[0] == "master", 10)

    def remove(self) -> None:
        for server in [*self.sentinels, self.replica, self.master]:
            server.remove()

    def _knows_all(self, sentinel: SystemRedis) -> bool:
        told = sentinel.client.sentinel_master(MASTER)
        return told["num-other-sentinels"] == 2 and told["num-slaves"] == 1

    @staticmethod
    def _told_by(sentinel: SystemRedis) -> int:
        return int(sentinel.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])
