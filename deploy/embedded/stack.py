"""All of a deployment: PostgreSQL, Valkey, their databases, and Airflow with the project's DAGs and plugin."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.embedded.airflow import MARK, AirflowDeployment
from deploy.embedded.celery import BROKER_DATABASE, Celery
from deploy.embedded.ports import free_port
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.process import Daemon, NotReadyError, kill_all, marked
from deploy.embedded.release import AIRFLOW_2, AIRFLOW_3, PROJECT, Release, sqlalchemy_url
from deploy.embedded.servers import Servers
from deploy.embedded.state import State

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

STATE_FOLDER = PROJECT / ".embedded"


@dataclass(frozen=True)
class Profile:
    """A kind of deployment. By its name go its folder, its metadata database and what the ledger calls it."""

    name: str
    release: Release
    executor: str
    parallelism: int = 4
    ports: Sequence[int] = range(8080, 8100)
    """Where its UI had best be."""
    workers: int = 0
    """Celery workers, which share `parallelism` among them."""


FULL = Profile("full", AIRFLOW_3, "LocalExecutor")
MINI = Profile("mini", AIRFLOW_2, "SequentialExecutor", ports=range(8180, 8200))
CELERY = Profile("celery", AIRFLOW_3, "CeleryExecutor", parallelism=12, ports=range(8280, 8300), workers=3)


class Stack:
    """A deployment whose data and logs lie below `folder`.

    Stacks of several profiles in one folder share its servers: the first to start starts them, the last to stop stops
    them. Each has an Airflow and a metadata database of its own.

    As a context manager it stops when the context ends. Left running after `start()`, it is found again from another
    process by `attach()`. Airflow's connections `exclusive_redis`, `exclusive_postgres` and `warehouse` lead to the
    servers, and DAGs can import from the project's root. `say` is told what happens next, for people who wait.
    """

    def __init__(
        self,
        folder: Path = STATE_FOLDER,
        profile: Profile = FULL,
        *,
        dags_folder: Path = PROJECT / "dags",
        plugins_folder: Path = PROJECT / "plugins",
        durable: bool = True,
        paused_at_creation: bool = False,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.profile = profile
        self.servers = Servers(folder / "servers", durable=durable)
        self.home = folder / "airflow" / profile.name
        self._dags_folder = dags_folder
        self._plugins_folder = plugins_folder
        self._paused_at_creation = paused_at_creation
        self._env = dict(env or {})
        self._say = say
        self._mark = secrets.token_hex(16)
        self._state_file = self.home / "state.json"
        self._airflow: AirflowDeployment | None = None

    # addresses

    @property
    def airflow(self) -> AirflowDeployment:
        """Airflow; there is one once the servers run."""
        if self._airflow is None:
            raise NotReadyError("the stack has not been started")
        return self._airflow

    @property
    def postgres(self) -> EmbeddedPostgres:
        return self.servers.postgres

    @property
    def metadata_dsn(self) -> str:
        """Airflow's own database."""
        return self.postgres.dsn(self._metadata)

    @property
    def status_dsn(self) -> str:
        """Database of the status tables."""
        return self.servers.status_dsn

    @property
    def warehouse_dsn(self) -> str:
        """Database that receives the sample jobs' effects."""
        return self.servers.warehouse_dsn

    @property
    def redis_url(self) -> str:
        return self.servers.redis_url

    @property
    def ui_url(self) -> str:
        return f"http://localhost:{self.airflow.api_port}"

    @property
    def daemons(self) -> dict[str, Daemon]:
        """Every process that was started, running or not."""
        return {**self.servers.daemons, **(self._airflow.daemons if self._airflow is not None else {})}

    # life

    def start(self) -> Self:
        """Start everything and wait until it is ready; when that fails or is interrupted, stop what was started."""
        self.home.mkdir(parents=True, exist_ok=True)
        state = State(self._mark, api_port=free_port(self.profile.ports))
        # first of all the mark: by it alone everything that follows can be found and stopped
        state.save(self._state_file)
        try:
            self._say("PostgreSQL and Valkey")
            self.servers.start(self.profile.name)
            self.postgres.ensure_database(self._metadata)
            if self.profile.workers:
                self.postgres.ensure_database(self._results)
            self._airflow = self._deployment(state)
            self._say("Airflow's metadata database")
            self._airflow.migrate()
            self._say("Airflow")
            self._airflow.start()
            state = replace(state, daemons=self._airflow.daemons)
            state.save(self._state_file)
            self._airflow.wait_ready()
        except BaseException:
            self.stop()
            raise
        replace(state, complete=True).save(self._state_file)
        return self

    def attach(self) -> bool:
        """Take over what an earlier `start()` wrote down. Whether all of it runs."""
        state = State.load(self._state_file)
        if state is None:
            return False
        served = self.servers.attach()
        self._mark = state.mark
        if state.daemons:
            self._airflow = self._deployment(state)
            self._airflow.daemons = dict(state.daemons)
        return served and state.complete and all(daemon.alive for daemon in self.daemons.values())

    def stop(self) -> None:
        """Stop everything that nobody else uses, Airflow first; the data stays."""
        self._stop_airflow()
        self.servers.stop(self.profile.name)

    def remove(self) -> None:
        """Stop everything, and forget the data, other deployments' excepted."""
        self._stop_airflow()
        self.servers.attach()
        others = any(home != self.home for home in self.home.parent.glob("*") if (home / "secrets.json").exists())
        shared = others or bool(self.servers.users - {self.profile.name})
        if shared:
            self.servers.start(self.profile.name)
            self.postgres.drop_database(self._metadata)
            if self.profile.workers:
                self.postgres.drop_database(self._results)
                self.servers.valkey.clear(BROKER_DATABASE)
        self.servers.stop(self.profile.name)
        shutil.rmtree(self.home, ignore_errors=True)
        if not shared:
            self.servers.remove()
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # how

    @property
    def _metadata(self) -> str:
        return f"airflow_{self.profile.name}"

    @property
    def _results(self) -> str:
        return f"{self._metadata}_results"

    @property
    def _celery(self) -> Celery | None:
        if not self.profile.workers:
            return None
        return Celery(
            broker_url=self.servers.valkey.url(BROKER_DATABASE),
            result_backend=f"db+{sqlalchemy_url(self.postgres.dsn(self._results))}",
            workers=self.profile.workers,
            concurrency=-(-self.profile.parallelism // self.profile.workers),
        )

    def _stop_airflow(self) -> None:
        if self._airflow is not None:
            self._airflow.stop()
        kill_all(marked(MARK, self._mark))
        self._state_file.unlink(missing_ok=True)

    def _deployment(self, state: State) -> AirflowDeployment:
        return AirflowDeployment(
            self.home,
            name=self.profile.name,
            release=self.profile.release,
            metadata_dsn=self.metadata_dsn,
            dags_folder=self._dags_folder,
            plugins_folder=self._plugins_folder,
            env={**self.servers.connections, "PYTHONPATH": str(PROJECT), **self._env},
            executor=self.profile.executor,
            parallelism=self.profile.parallelism,
            api_port=state.api_port,
            paused_at_creation=self._paused_at_creation,
            programs=[self.postgres.pg_bin],
            run_mark=self._mark,
            celery=self._celery,
        )
