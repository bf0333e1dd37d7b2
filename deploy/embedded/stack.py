"""All of a deployment: PostgreSQL, Valkey, their databases, and Airflow with the project's DAGs and plugin."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from deploy.embedded.airflow import MARK, AirflowDeployment
from deploy.embedded.ports import LOOPBACK, free_port
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.process import Daemon, NotReadyError, kill_all, marked
from deploy.embedded.state import StackState
from deploy.embedded.valkey import EmbeddedValkey

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

PROJECT = Path(__file__).resolve().parents[2]
STATE_FOLDER = PROJECT / ".embedded"

METADATA, STATUS, WAREHOUSE = "airflow", "exclusive", "warehouse"
"""The databases: Airflow's own, the status tables, and the one that receives the sample jobs' effects."""

_PREFERRED_PORTS = range(8080, 8100)


class Stack:
    """A deployment whose data and logs lie below `folder`.

    As a context manager it stops when the context ends. Left running after `start()`, it is found again from another
    process by `attach()`. Airflow's connections `exclusive_redis`, `exclusive_postgres` and `warehouse` lead to the
    servers, and DAGs can import from the project's root. `say` is told what happens next, for people who wait.
    """

    def __init__(
        self,
        folder: Path = STATE_FOLDER,
        *,
        dags_folder: Path = PROJECT / "dags",
        plugins_folder: Path = PROJECT / "plugins",
        durable: bool = True,
        paused_at_creation: bool = False,
        parallelism: int = 4,
        executor: str = "LocalExecutor",
        api_port: int | None = None,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self._dags_folder = dags_folder
        self._plugins_folder = plugins_folder
        self._durable = durable
        self._paused_at_creation = paused_at_creation
        self._parallelism = parallelism
        self._executor = executor
        self._api_port = api_port
        self._env = dict(env or {})
        self._say = say
        self._state_file = folder / "state.json"
        self._airflow: AirflowDeployment | None = None
        self._prepare(secrets.token_hex(16))

    def _prepare(self, mark: str) -> None:
        self._mark = mark
        servers = {MARK: _servers(mark)}
        self.postgres = EmbeddedPostgres(self.folder / "postgres", durable=self._durable, env=servers)
        self.valkey = EmbeddedValkey(self.folder / "valkey", durable=self._durable, env=servers)

    # addresses

    @property
    def airflow(self) -> AirflowDeployment:
        """Airflow; there is one once the servers run."""
        if self._airflow is None:
            raise NotReadyError("the stack has not been started")
        return self._airflow

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
    def ui_url(self) -> str:
        return f"http://localhost:{self.airflow.api_port}"

    @property
    def daemons(self) -> dict[str, Daemon]:
        """Every process that was started, running or not."""
        servers = [self.postgres.daemon, self.valkey.daemon]
        airflow = self._airflow.daemons.values() if self._airflow is not None else ()
        return {daemon.name: daemon for daemon in (*servers, *airflow) if daemon is not None}

    # life

    def start(self) -> Self:
        """Start everything and wait until it is ready; when that fails or is interrupted, stop what was started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        api_port = self._api_port or free_port(_PREFERRED_PORTS)
        state = StackState(self._mark, api_port)
        # first of all the mark: by it alone everything that follows can be found and stopped
        state.save(self._state_file)
        try:
            self._say("PostgreSQL and Valkey")
            self.postgres.start()
            self.valkey.start()
            for database in (METADATA, STATUS, WAREHOUSE):
                self.postgres.ensure_database(database)
            self._airflow = self._deployment(api_port)
            self._say("the status tables")
            self._init("--postgres", self.status_dsn)
            self._init("--effects", "--postgres", self.warehouse_dsn)
            self._say("Airflow's metadata database")
            self._airflow.migrate()
            self._say("Airflow")
            self._airflow.start()
            state = replace(state, daemons=self.daemons)
            state.save(self._state_file)
            self._airflow.wait_ready()
        except BaseException:
            self.stop()
            raise
        replace(state, complete=True).save(self._state_file)
        return self

    def attach(self) -> bool:
        """Take over what an earlier `start()` wrote down. Whether all of it runs."""
        state = StackState.load(self._state_file)
        if state is None:
            return False
        self._prepare(state.mark)
        known = dict(state.daemons)
        self.postgres.daemon = known.pop("PostgreSQL", None)
        self.valkey.daemon = known.pop("Valkey", None)
        if known:
            self._airflow = self._deployment(state.api_port)
            self._airflow.daemons = known
        return state.complete and all(daemon.alive for daemon in self.daemons.values())

    def stop(self) -> None:
        """Stop everything, Airflow first; the data stays."""
        if self._airflow is not None:
            self._airflow.stop()
        kill_all(marked(MARK, self._mark))
        self.valkey.stop()
        self.postgres.stop()
        kill_all(marked(MARK, _servers(self._mark)))
        self._state_file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop everything, and forget the data."""
        self.stop()
        self.valkey.remove()
        self.postgres.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # how

    def _deployment(self, api_port: int) -> AirflowDeployment:
        connections = {
            "exclusive_redis": {
                "conn_type": "redis",
                "host": LOOPBACK,
                "port": self.valkey.port,
                "extra": {"db": 0},
            },
            "exclusive_postgres": self._postgres_connection(STATUS),
            "warehouse": self._postgres_connection(WAREHOUSE),
        }
        return AirflowDeployment(
            self.folder / "airflow",
            metadata_dsn=self.postgres.dsn(METADATA),
            dags_folder=self._dags_folder,
            plugins_folder=self._plugins_folder,
            env={
                **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(entry) for name, entry in connections.items()},
                "PYTHONPATH": str(PROJECT),
                **self._env,
            },
            executor=self._executor,
            parallelism=self._parallelism,
            api_port=api_port,
            paused_at_creation=self._paused_at_creation,
            programs=[self.postgres.pg_bin],
            run_mark=self._mark,
        )

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
            env=self.airflow.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise NotReadyError(f"airflow-exclusive init {' '.join(options)} failed:\n{done.stdout}{done.stderr}")


def _servers(mark: str) -> str:
    """The servers' own mark: they are to outlive Airflow when the stack stops."""
    return f"{mark}:servers"
