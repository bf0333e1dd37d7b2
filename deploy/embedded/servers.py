"""PostgreSQL and Valkey, with the databases that deployments share."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from deploy.embedded.airflow import MARK, inherited_environment
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.process import Daemon, NotReadyError, kill_all, marked
from deploy.embedded.release import PROJECT
from deploy.embedded.state import State, exclusive_use
from deploy.embedded.valkey import EmbeddedValkey

STATUS, WAREHOUSE = "exclusive", "warehouse"
"""The databases that all have in common: the status tables, and what receives the sample jobs' effects."""


class Servers:
    """The servers whose data lies below `folder`, shared by all who name it.

    Each user starts and stops them under a name of its own: the first starts them, the last one stops them.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self._durable = durable
        self._state_file = folder / "state.json"
        self._prepare(State(secrets.token_hex(16)))

    def _prepare(self, state: State) -> None:
        self._state = state
        env = {MARK: state.mark}
        self.postgres = EmbeddedPostgres(self.folder / "postgres", durable=self._durable, env=env)
        self.valkey = EmbeddedValkey(self.folder / "valkey", durable=self._durable, env=env)

    # addresses

    @property
    def status_dsn(self) -> str:
        """Database of the status tables."""
        return self.postgres.dsn(STATUS)

    @property
    def warehouse_dsn(self) -> str:
        """Database that receives the sample jobs' effects."""
        return self.postgres.dsn(WAREHOUSE)

    @property
    def redis_url(self) -> str:
        return self.valkey.url(0)

    @property
    def connections(self) -> dict[str, str]:
        """Airflow's connections to them, as environment variables."""
        entries = {
            "exclusive_redis": {
                "conn_type": "redis",
                "host": LOOPBACK,
                "port": self.valkey.port,
                "extra": {"db": 0},
            },
            "exclusive_postgres": self._postgres_connection(STATUS),
            "warehouse": self._postgres_connection(WAREHOUSE),
        }
        return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(entry) for name, entry in entries.items()}

    @property
    def daemons(self) -> dict[str, Daemon]:
        """Those that were started, running or not."""
        return {daemon.name: daemon for daemon in (self.postgres.daemon, self.valkey.daemon) if daemon is not None}

    @property
    def users(self) -> frozenset[str]:
        """Who has started them and not stopped them."""
        return self._state.users

    # life

    def start(self, user: str) -> None:
        """Start what doesn't run, and bring the package's tables up to date."""
        with exclusive_use(self.folder, wait=True):
            if not self.attach():
                self._end()  # what an interrupted start or a crash may have left
                self._prepare(State(secrets.token_hex(16)))
                # first of all the mark: by it alone everything that follows can be found and stopped
                self._state.save(self._state_file)
                try:
                    self.postgres.start()
                    self.valkey.start()
                except BaseException:
                    self._end()
                    raise
            self._note(replace(self._state, complete=True, daemons=self.daemons, users=self._state.users | {user}))
            for database in (STATUS, WAREHOUSE):
                self.postgres.ensure_database(database)
            self._init("--postgres", self.status_dsn)
            self._init("--effects", "--postgres", self.warehouse_dsn)

    def attach(self) -> bool:
        """Take over what an earlier `start()` wrote down. Whether all of it runs."""
        state = State.load(self._state_file)
        if state is None:
            return False
        if state.mark != self._state.mark:
            self._prepare(state)
            self.postgres.daemon = state.daemons.get("PostgreSQL")
            self.valkey.daemon = state.daemons.get("Valkey")
        self._state = state
        return state.complete and all(daemon.alive for daemon in self.daemons.values())

    def stop(self, user: str) -> None:
        """Shut them down, unless somebody else uses them; the data stays."""
        with exclusive_use(self.folder, wait=True):
            self.attach()
            others = self.users - {user}
            if others:
                self._note(replace(self._state, users=others))
            else:
                self._end()

    def remove(self) -> None:
        """Forget the data, when they are stopped."""
        self.valkey.remove()
        self.postgres.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    # how

    def _note(self, state: State) -> None:
        self._state = state
        state.save(self._state_file)

    def _end(self) -> None:
        self.valkey.stop()
        self.postgres.stop()
        kill_all(marked(MARK, self._state.mark))
        self._state_file.unlink(missing_ok=True)

    def _postgres_connection(self, database: str) -> dict[str, object]:
        return {
            "conn_type": "postgres",
            "host": LOOPBACK,
            "port": self.postgres.port,
            "login": "postgres",
            "schema": database,
        }

    def _init(self, *options: str) -> None:
        """Install the package's tables, by the command a user has for it."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow_exclusive.cli", "init", *options],
            env=inherited_environment(),
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise NotReadyError(f"airflow-exclusive init {' '.join(options)} failed:\n{done.stdout}{done.stderr}")
