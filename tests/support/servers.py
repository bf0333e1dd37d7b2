"""Servers of the distribution, as child processes on loopback: another Redis, another PostgreSQL, PgBouncer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import psutil
import psycopg
import pytest
import redis

from deploy.embedded.account import Account, server_environment, service_folder
from deploy.embedded.ports import LOOPBACK, free_port
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.process import Daemon, wait_until
from deploy.embedded.valkey import EmbeddedValkey
from tests.support.certificates import Certificates


def program(name: str, *places: str) -> Path:
    """Where it is; where it isn't, see `not_installed`."""
    found = shutil.which(name, path=":".join([*places, "/usr/bin", "/usr/sbin", "/usr/local/bin"])) or shutil.which(
        name
    )
    if found is None:
        not_installed(name)
    return Path(found)


def not_installed(name: str) -> NoReturn:
    """The test fails, except for an ordinary user, who can't install anything: there it is left out, and says so."""
    message = f"{name} isn't installed: run deploy/system-packages.sh as root (as `make test` does there)"
    if os.geteuid() == 0 or "CI" in os.environ:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


class SystemPostgres(EmbeddedPostgres):
    """The PostgreSQL of the distribution (15 in Debian 12)."""

    def _server_installation(self) -> Path:
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name))
        return program("postgres", *map(str, places)).parent.parent


class OddPostgres(EmbeddedPostgres):
    """The embedded one with settings of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(folder, durable=False, **options)
        self._more = settings

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _settings(self) -> list[str]:
        return [
            *super()._settings(),
            *(part for name, value in self._more.items() for part in ("-c", f"{name}={value}")),
        ]


class PgBouncer:
    """In front of the server of `dsn`, for its user and all of its databases; `more`: as in its [pgbouncer] section."""

    def __init__(
        self, folder: Path, dsn: str, *, pool_mode: str = "transaction", pool_size: int = 5, more: str = ""
    ) -> None:
        self._server, self._pool_mode, self._pool_size, self._more = urlsplit(dsn), pool_mode, pool_size, more
        self._folder = service_folder(folder)
        self._account = Account.for_service()
        self.port = free_port()
        self.daemon: Daemon | None = None

    def dsn(self, database: str) -> str:
        return f"postgresql://{self._server.username}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> PgBouncer:
        users = self._folder / "users.txt"
        users.write_text(f'"{self._server.username}" ""\n')
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={self._server.hostname} port={self._server.port}\n[pgbouncer]\n"
            f"listen_addr = {LOOPBACK}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\nadmin_users = {self._server.username}\n"
            "ignore_startup_parameters = options\n"
            f"pool_mode = {self._pool_mode}\ndefault_pool_size = {self._pool_size}\nmax_client_conn = 200\n"
            f"{self._more}\n"
        )
        for file in (users, settings):
            file.chmod(0o644)
        self.daemon = Daemon.spawn(
            "PgBouncer",
            [program("pgbouncer"), settings],
            log=self._folder / "pgbouncer.log",
            env=server_environment({}),
            cwd=self._folder,
            account=self._account,
        )
        wait_until(self._answers, timeout=20, what="PgBouncer's first answer", daemons=[self.daemon])
        return self

    def log(self) -> str:
        return (self._folder / "pgbouncer.log").read_text(errors="replace")

    def remove(self) -> None:
        if self.daemon is not None:
            self.daemon.stop(signal.SIGINT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool | None:
        try:
            psycopg.connect(self.dsn("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return None
        return True


@dataclass(frozen=True)
class Door:
    """How a Redis is reached: by anybody, or with TLS alone and a password."""

    certificates: Certificates | None = None
    password: str = ""

    def settings(self) -> dict[str, Any]:
        """With a port of its own each time."""
        settings: dict[str, Any] = {"port": free_port()}
        if self.certificates is not None:
            settings = {
                "tls-port": settings["port"],
                "port": 0,
                "tls-cert-file": self.certificates.certificate,
                "tls-key-file": self.certificates.key,
                "tls-ca-cert-file": self.certificates.authority,
                "tls-auth-clients": "no",
                "tls-replication": "yes",
                "tls-cluster": "yes",
            }
        if self.password:
            settings |= {"requirepass": self.password, "masterauth": self.password}
        return settings

    def url(self, kind: str, place: str, **options: str) -> str:
        """kind: "", "sentinel" or "cluster"; place: hosts, and what comes after them."""
        scheme = ("rediss" if self.certificates else "redis") + (f"+{kind}" if kind else "")
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.certificates:
            options["ssl_ca_certs"] = str(self.certificates.authority)
        query = urlencode({name: value for name, value in options.items() if value})
        return f"{scheme}://{login}{place}" + (f"?{query}" if query else "")


class SystemRedis:
    """The redis-server of the distribution (7.0 in Debian 12), or a sentinel; `settings` as in redis.conf."""

    databases = 64

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None, *, sentinel: bool = False) -> None:
        self.folder, self._given, self._sentinel = folder, dict(settings or {}), sentinel
        self.port = int(self._given.get("tls-port") or self._given.get("port") or free_port())
        self.daemon: Daemon | None = None

    def url(self, db: int = 0) -> str:
        return f"redis://{LOOPBACK}:{self.port}/{db}"

    @cached_property
    def client(self) -> redis.Redis:
        """For the tests themselves; it doesn't try again."""
        tls = "tls-port" in self._given
        return redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self._given.get("requirepass"),
            ssl=tls,
            ssl_ca_certs=str(self._given["tls-ca-cert-file"]) if tls else None,
            decode_responses=True,
            socket_timeout=10,
        )

    def start(self) -> SystemRedis:
        if self.daemon is not None and self.daemon.alive:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "redis.conf"
        if not file.exists():  # a sentinel writes what it has learnt into it
            settings = {
                "bind": LOOPBACK,
                "port": self.port,
                "dir": self.folder,
                "databases": self.databases,
                "save": '""',
                "maxmemory-policy": "noeviction",
                **self._given,
            }
            file.write_text("".join(f"{name} {line}\n" for name, value in settings.items() for line in _lines(value)))
        self.daemon = Daemon.spawn(
            "Redis",
            [program("redis-server"), file, *(["--sentinel"] if self._sentinel else [])],
            log=self.folder / "redis.log",
            env=server_environment({}),
            cwd=self.folder,
        )
        wait_until(self._listens, timeout=20, what="Redis' first answer", daemons=[self.daemon])
        return self

    def setting(self, name: str) -> Any:
        return self._given[name]

    def kill(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()

    def remove(self) -> None:
        if "client" in self.__dict__:
            self.client.close()
        if self.daemon is not None:
            self.daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listens(self) -> bool | None:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=5).close()
        except OSError:
            return None
        return True


class BreakableValkey(EmbeddedValkey):
    """The embedded server, for tests that break it and look what is left."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, durable=False)

    @cached_property
    def client(self) -> redis.Redis:
        """As that of `SystemRedis`."""
        return redis.Redis(host=LOOPBACK, port=self.port, decode_responses=True, socket_timeout=10)

    def remove(self) -> None:
        if "client" in self.__dict__:
            self.client.close()
        super().remove()


def _lines(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def send_all(server: EmbeddedPostgres, number: signal.Signals) -> None:
    """To the server first, so that it starts no more processes, then to those that it has."""
    if server.daemon is not None and server.daemon.process is not None:
        server.daemon.send(number)
        for process in server.daemon.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
