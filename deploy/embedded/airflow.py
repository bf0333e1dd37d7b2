"""One Airflow deployment on this machine: its environment, its processes, its command line."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.embedded.celery import Celery
from deploy.embedded.ports import LOOPBACK, free_port
from deploy.embedded.process import Daemon, NotReadyError, kill_all, marked, wait_until
from deploy.embedded.release import ADMIN, AIRFLOW_3, Release, Site

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

MARK = "EXCLUSIVE_EMBEDDED_RUN"
"""Environment variable by which every process of a deployment is found again, orphans included."""

# Another Airflow's settings, another Python's paths and the test run's own notes are not for the deployment.
_LEFT_OUT = ("AIRFLOW_", "EXCLUSIVE_", "PYTHON", "PYTEST_", "VIRTUAL_ENV", "CONDA_")


def inherited_environment() -> dict[str, str]:
    """What the deployment gets of our own environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}


class AirflowDeployment:
    """Airflow's processes, each in a session of its own, logging to `<home>/logs/<component>.log`.

    `name` tells it from others that share its stores. `env` goes to every process, on top of the settings made here;
    `programs` are folders for their PATH. `python` is the interpreter that has Airflow, the release's by default.
    `run_mark` is that of a deployment to be found again, else a new one. `celery` has the CeleryExecutor's workers.
    Secrets are made once for each `home` and kept there, readable to its owner alone.
    """

    def __init__(
        self,
        home: Path,
        *,
        name: str,
        metadata_dsn: str,
        dags_folder: Path,
        plugins_folder: Path,
        env: Mapping[str, str] | None = None,
        executor: str = "LocalExecutor",
        parallelism: int = 4,
        api_port: int | None = None,
        paused_at_creation: bool = True,
        programs: Sequence[Path] = (),
        python: Path | None = None,
        run_mark: str | None = None,
        release: Release = AIRFLOW_3,
        celery: Celery | None = None,
    ) -> None:
        self.home = home
        self.name = name
        self.release = release
        self.python = python or release.python
        self.api_port = api_port or free_port()
        self.daemons: dict[str, Daemon] = {}
        self.workers = celery.components if celery else {}
        self.run_mark = run_mark or secrets.token_hex(16)
        self._site = Site(
            home=home,
            metadata_dsn=metadata_dsn,
            dags_folder=dags_folder,
            plugins_folder=plugins_folder,
            api_port=self.api_port,
            **_secrets_of(home),
        )
        self._settings = {
            "core.executor": executor,
            "core.parallelism": str(parallelism),
            "core.dags_are_paused_at_creation": str(paused_at_creation),
            "exclusive.deployment": name,
            **(celery.settings if celery else {}),
        }
        self.celery = celery
        self._env = dict(env or {})
        self._programs = [str(folder) for folder in (self.python.parent, *programs)]
        self.api = release.api(self._site)

    @property
    def url(self) -> str:
        """Where the UI and the API answer."""
        return self._site.url

    @property
    def login(self) -> tuple[str, str] | None:
        """Name and password for the UI; None where it asks for neither."""
        return (ADMIN, self._site.admin_password) if self.release.has_passwords else None

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of the deployment's processes."""
        inherited = inherited_environment()
        options = self.release.settings(self._site) | self._settings
        settings = {"AIRFLOW__{}__{}".format(*name.upper().split(".")): value for name, value in options.items()}
        direct = ",".join(filter(None, [inherited.get("NO_PROXY"), LOOPBACK, "localhost"]))
        return {
            **inherited,
            **settings,
            **self.release.variables,
            "AIRFLOW_HOME": str(self.home),
            "PATH": os.pathsep.join([*self._programs, inherited.get("PATH", os.defpath)]),
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PYTHONUNBUFFERED": "1",
            "SPT_NOENV": "1",  # process titles must not overwrite the environment, which has the mark
            MARK: self.run_mark,
            **self._env,
        }

    # life

    def migrate(self) -> None:
        """Make the metadata database, or bring it up to date."""
        for arguments in self.release.migrate(self._site):
            self.cli(*arguments)

    def start(self, *components: str, env: Mapping[str, str] | None = None) -> None:
        """Start the named components, or all; those that run already are left alone. `env` is for this start only."""
        commands = {**self.release.components, **self.workers}
        for component in components or commands:
            if component not in self.pids:
                for left in self.home.glob(f"airflow-{component}*.pid"):
                    left.unlink()  # by a crash: Airflow 2's webserver takes a stranger with that pid for its like
                node = {"EXCLUSIVE_NODE": component} if component in self.workers else {}
                self.daemons[component] = Daemon.spawn(
                    component,
                    [self.python, "-m", "airflow", *commands[component]],
                    log=self.log(component),
                    env={**self.environment, **node, **(env or {})},
                    cwd=self.home,
                )

    def wait_ready(self, timeout: float = 120) -> None:
        """Wait until our API answers and each component that was started has sent a heartbeat of its own.

        Raises `NotReadyError` with the end of its log when a component dies meanwhile.
        """
        wait_until(self._healthy, timeout=timeout, what="Airflow", daemons=self.daemons.values(), period=0.25)

    def stop(self, timeout: float = 20) -> None:
        """SIGTERM to every component, then SIGKILL to whatever is left, tasks and orphans included."""
        families = [process for daemon in self.daemons.values() for process in daemon.family()]
        for daemon in self.daemons.values():
            daemon.send(signal.SIGTERM)
        for daemon in self.daemons.values():
            daemon.wait(timeout)
        kill_all({*families, *marked(MARK, self.run_mark)})
        for daemon in self.daemons.values():
            daemon.wait(5)

    def kill(self, component: str, *, family: bool = False) -> None:
        """SIGKILL to a component, or to all of its family; alone, its children live on as orphans."""
        daemon = self.daemons[component]
        if family:
            daemon.kill()
        else:
            daemon.send(signal.SIGKILL)
            daemon.wait(5)

    def lose(self, component: str | None = None) -> None:
        """What a power cut does: everything is gone at the same moment, tasks, orphans and keepers included.

        Everything of this component, where one is named: a worker's machine is lost.
        """
        processes = marked(MARK, self.run_mark) if component is None else self.daemons[component].family()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        kill_all(processes)

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            self.migrate()
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop(timeout=2)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()
        self.stop()

    # asking

    @property
    def pids(self) -> dict[str, int]:
        """Component -> pid, of those that run."""
        return {name: daemon.pid for name, daemon in self.daemons.items() if daemon.alive}

    def log(self, component: str) -> Path:
        return self.home / "logs" / f"{component}.log"

    def cli(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `airflow …` in the deployment's environment.

        Raises `NotReadyError` with its output when it fails, unless `check` is off.
        """
        done = subprocess.run(
            [self.python, "-m", "airflow", *arguments],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise NotReadyError(f"airflow {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done

    def _healthy(self) -> bool | None:
        try:
            self.api.dags()  # anybody's Airflow has a health page; only ours lets us in
            answer = self.api.get_json(f"{self.url}{self.release.health_path}")
        except (httpx.HTTPError, ValueError):
            return None
        healthy = answer["metadatabase"]["status"] == "healthy" and all(
            _reports(answer.get(key) or {}, key, since=self.daemons[component].created)
            for component, key in self.release.health_keys.items()
            if component in self.daemons
        )
        workers = [name for name in self.workers if name in self.daemons]
        return (healthy and (self.celery is None or self.celery.answers(workers))) or None


def _reports(health: Mapping[str, Any], key: str, *, since: float) -> bool:
    """Healthy, by a heartbeat of this very process: its predecessor's last one looks just as healthy for a while."""
    heartbeat = health.get(f"latest_{key}_heartbeat")
    if health.get("status") != "healthy" or heartbeat is None:
        return False
    return datetime.fromisoformat(heartbeat.replace("Z", "+00:00")).timestamp() >= since


def _secrets_of(home: Path) -> dict[str, str]:
    """The deployment's own secrets; made, for the owner's eyes only, where there are none yet."""
    path = home / "secrets.json"
    if path.exists():
        kept: dict[str, str] = json.loads(path.read_text())
        return kept
    home.mkdir(parents=True, exist_ok=True)
    made = {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "api_secret": secrets.token_urlsafe(32),
        "jwt_secret": secrets.token_urlsafe(64),
        "admin_password": secrets.token_hex(8),
    }
    partial = path.with_suffix(".new")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps(made))
    partial.replace(path)
    return made
