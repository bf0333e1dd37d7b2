"""What strikes nodes and servers: one thing after the other, some of them for a while, chosen by a seed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import psutil
import psycopg
import redis

from tests.support.proxy import DUPLICATED, FOR_EVER, HANGING, REPLY_LOST, REQUEST_LOST, SLOW, UNHEARD, Proxy
from tests.support.servers import send_all
from tests.torture.world import Node, World, impatient

Heal = Callable[[], object]
Strike = Callable[[], "Heal | None"]

_PAUSE = 1.5
"""Seconds between two strikes, on average: an attempt has to live long enough to lose its lease."""
_AT_SERVERS, _OUTAGE = 0.3, 1.0
_AIMED, _ABSENCE = 0.75, 3.0
"""How often servers are struck, and nodes that have a lease; and for how long at most, in ttl.

Servers less and not so long, since nobody can take over what a node has lost while they are away.
"""

_OTHERS = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IN ('status', 'effects')"


class Nemesis:
    def __init__(self, world: World) -> None:
        self._world = world
        self._random = random.Random(world.seed)
        self._wounds: list[tuple[float, str, Heal]] = []
        nodes: dict[str, Callable[[Node], Heal | None]] = {
            "job killed": self._kill_job,
            "job told to end": self._end_job,
            "job frozen": self._freeze_job,
            "keeper killed": self._kill_keeper,
            "keeper frozen": self._freeze_keeper,
            "node killed": self._kill_node,
            "node frozen": self._freeze_node,
            "cut off": self._cut_off,
            "turned away": self._turn_away,
            "disturbed": self._disturb,
        }
        self._at_nodes: dict[str, Strike] = {what: partial(self._at_victim, strike) for what, strike in nodes.items()}
        self._at_servers: dict[str, Strike] = {
            "redis emptied": self._empty_redis,
            "redis forgets its scripts": self._forget_scripts,
            "redis hangs up": self._hang_up,
            "redis frozen": self._freeze_redis,
            "redis killed": self._kill_redis,
            "postgres hangs up": lambda: self._ask_postgres("SELECT pg_terminate_backend(pid) " + _OTHERS),
            "postgres cancels": lambda: self._ask_postgres("SELECT pg_cancel_backend(pid) " + _OTHERS),
            "postgres frozen": self._freeze_postgres,
            "postgres killed": self._kill_postgres,
            "released by hand": lambda: world.free(self._random.choice(world.jobs)),
        }

    def torment(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        strike_at = time.monotonic()
        while (now := time.monotonic()) < until:
            for wound in [wound for wound in self._wounds if wound[0] <= now]:
                self._heal(wound)
            if now >= strike_at:
                self._strike()
                strike_at = time.monotonic() + self._random.expovariate(1 / _PAUSE)
            time.sleep(0.05)
        for wound in list(self._wounds):
            self._heal(wound)

    def _at_victim(self, strike: Callable[[Node], Heal | None]) -> Heal | None:
        """Mostly one that has a lease, which is where there is something to break."""
        at_work = [node for node in self._world.nodes if node.keepers()]
        aimed = at_work and self._random.random() < _AIMED
        return strike(self._random.choice(at_work if aimed else self._world.nodes))

    def _strike(self) -> None:
        at_servers = self._random.random() < _AT_SERVERS
        strikes, longest = (self._at_servers, _OUTAGE) if at_servers else (self._at_nodes, _ABSENCE)
        what = self._random.choice(list(strikes))
        lasts = self._random.uniform(0.0, longest) * self._world.ttl
        if any(wound[1] == what for wound in self._wounds):
            return
        self._world.history.note("strike", what=what)
        if heal := strikes[what]():
            self._wounds.append((time.monotonic() + lasts, what, heal))

    def _heal(self, wound: tuple[float, str, Heal]) -> None:
        self._wounds.remove(wound)
        self._world.history.note("healed", what=wound[1])
        wound[2]()

    # a node

    def _kill_job(self, node: Node) -> None:
        node.send(node.job(), psutil.Process.kill, "job killed")

    def _end_job(self, node: Node) -> None:
        node.send(node.job(), psutil.Process.terminate, "job told to end")

    def _kill_keeper(self, node: Node) -> None:
        node.send(node.keepers(), psutil.Process.kill, "keeper killed")

    def _kill_node(self, node: Node) -> None:
        everything = node.everything()
        node.send(everything, psutil.Process.suspend, "node frozen")  # or a keeper would tell of the job's end
        node.send(everything, psutil.Process.kill, "node killed")

    def _freeze_job(self, node: Node) -> Heal:
        return _frozen(node, node.job(), "job frozen")

    def _freeze_keeper(self, node: Node) -> Heal:
        return _frozen(node, node.keepers(), "keeper frozen")

    def _freeze_node(self, node: Node) -> Heal:
        return _frozen(node, node.everything(), "node frozen")

    # its ways to the servers

    def _cut_off(self, node: Node) -> Heal:
        return self._way_is_shut(node, HANGING)

    def _turn_away(self, node: Node) -> Heal:
        return self._way_is_shut(node, REQUEST_LOST)

    def _way_is_shut(self, node: Node, kind: str) -> Heal:
        faults = [way.arm(_whatever, kind, times=FOR_EVER) for way in self._ways(node)]

        def heal() -> None:
            for fault in faults:
                fault.lift()

        return heal

    def _disturb(self, node: Node) -> None:
        way = self._random.choice([node.redis, node.postgres, node.effects])
        # Twice comes only what is asked anew where an answer was lost, and in a job's own transaction nothing is.
        kinds = [REQUEST_LOST, REPLY_LOST, SLOW, HANGING, UNHEARD] + [DUPLICATED] * (way is not node.effects)
        kind = self._random.choice(kinds)
        seconds = self._random.uniform(0.05, 0.5 * self._world.ttl)
        way.arm(_whatever, kind, times=self._random.randint(1, 3), seconds=seconds)

    def _ways(self, node: Node) -> list[Proxy]:
        all_ways = [node.redis, node.postgres, node.effects]
        return self._random.sample(all_ways, self._random.randint(1, len(all_ways)))

    # the servers

    def _empty_redis(self) -> None:
        self._ask_redis("FLUSHALL")

    def _forget_scripts(self) -> None:
        self._ask_redis("SCRIPT", "FLUSH")

    def _hang_up(self) -> None:
        self._ask_redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _freeze_redis(self) -> Heal | None:
        daemon = self._world.redis.daemon
        if daemon is None or not daemon.alive:
            return None
        daemon.send(signal.SIGSTOP)
        return lambda: daemon.send(signal.SIGCONT)

    def _kill_redis(self) -> Heal:
        self._world.redis.kill()
        return self._world.redis.start

    def _freeze_postgres(self) -> Heal:
        send_all(self._world.postgres, signal.SIGSTOP)
        return lambda: send_all(self._world.postgres, signal.SIGCONT)

    def _kill_postgres(self) -> Heal:
        self._world.postgres.kill()
        return self._world.postgres.start

    def _ask_redis(self, *command: str) -> None:
        with suppress(redis.RedisError), redis.Redis.from_url(self._world.redis.url(), socket_timeout=2) as client:
            client.execute_command(*command)

    def _ask_postgres(self, statement: str) -> None:
        with suppress(psycopg.Error), impatient(self._world.postgres.dsn()) as conn:
            conn.execute(statement)


def _frozen(node: Node, processes: list[psutil.Process], what: str) -> Heal:
    pid = node.pid
    node.send(processes, psutil.Process.suspend, what)
    return lambda: node.send(processes, psutil.Process.resume, f"no more {what}", pid)


def _whatever(_: bytes) -> bool:
    return True
