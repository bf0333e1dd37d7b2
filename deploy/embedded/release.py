"""What differs between the lines of Airflow: their processes, their settings, where and to whom they answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

import httpx

from deploy.embedded.airflow_api import AirflowApi, AirflowApiV1, OwnToken
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.process import NotReadyError

PROJECT = Path(__file__).resolve().parents[2]
ADMIN = "admin"


@dataclass(frozen=True)
class Site:
    """Where one deployment lives, and its secrets."""

    home: Path
    metadata_dsn: str
    dags_folder: Path
    plugins_folder: Path
    api_port: int
    fernet_key: str
    api_secret: str
    jwt_secret: str
    admin_password: str

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.api_port}"


class Release:
    """One line of Airflow. A further one is a further subclass, handed to `AirflowDeployment`."""

    line: ClassVar[str]
    """How its versions begin."""
    environment: ClassVar[str]
    """The project's Python environment that has it, and `make` target that makes it."""
    components: ClassVar[Mapping[str, Sequence[str]]]
    """Name of each process, and the arguments of `airflow` that start it."""
    health_path: ClassVar[str]
    health_keys: ClassVar[Mapping[str, str]]
    """Component -> its key in the health answer, for those that report a heartbeat."""
    variables: ClassVar[Mapping[str, str]] = {}
    """Further settings, which aren't Airflow's: environment variables."""
    has_passwords: ClassVar[bool]
    """Whether the UI asks who one is: `ADMIN`, by the site's password."""

    def migrate(self, site: Site) -> Sequence[Sequence[str]]:
        """Arguments of `airflow` that bring the metadata database up to date, in order."""
        raise NotImplementedError

    def settings(self, site: Site) -> dict[str, str]:
        """Airflow's settings, as `section.option`."""
        raise NotImplementedError

    def api(self, site: Site) -> AirflowApi:
        """Its API, for an admin; no other deployment's API will do, should one have the port."""
        raise NotImplementedError

    @property
    def installed(self) -> bool:
        """Whether this Python has it."""
        try:
            return version("apache-airflow").startswith(self.line)
        except PackageNotFoundError:
            return False

    @property
    def python(self) -> Path:
        """An interpreter that has it: this one, or that of the project's environment."""
        python = Path(sys.executable) if self.installed else PROJECT / self.environment / "bin" / "python"
        if not os.access(python, os.X_OK):
            raise NotReadyError(f"{python}, which is to run Airflow {self.line}x, doesn't exist: make venv venv-mini")
        return python


class Airflow2(Release):
    """Airflow 2.11: tasks talk to the metadata database, and the scheduler reads the DAG files itself."""

    line = "2."
    environment = ".venv-2.11"
    components: ClassVar[Mapping[str, Sequence[str]]] = {
        "webserver": ("webserver",),
        "scheduler": ("scheduler", "--skip-serve-logs"),
    }
    health_path = "/health"
    health_keys: ClassVar[Mapping[str, str]] = {"scheduler": "scheduler"}
    variables: ClassVar[Mapping[str, str]] = {
        "GUNICORN_CMD_ARGS": "--no-control-socket",  # that would be one for all webservers of this user
    }
    has_passwords = True

    def migrate(self, site: Site) -> Sequence[Sequence[str]]:
        person = {
            "username": ADMIN,
            "password": site.admin_password,
            "role": "Admin",
            "email": "admin@localhost",
            "firstname": "Ada",
            "lastname": "Admin",
        }
        return (
            ("db", "migrate"),
            ("sync-perm",),  # makes the roles
            ("users", "create", *(part for name, value in person.items() for part in (f"--{name}", value))),
        )

    def settings(self, site: Site) -> dict[str, str]:
        return _common_settings(site) | {
            "api.auth_backends": (
                # a session is quicker than having the password checked with each call
                "airflow.providers.fab.auth_manager.api.auth.backend.session,"
                "airflow.providers.fab.auth_manager.api.auth.backend.basic_auth"
            ),
            "webserver.base_url": f"http://localhost:{site.api_port}",
            "webserver.web_server_host": LOOPBACK,
            "webserver.web_server_port": str(site.api_port),
            "webserver.workers": "2",
            "webserver.secret_key": site.api_secret,
            "webserver.warn_deployment_exposure": "False",
            "webserver.show_trigger_form_if_no_params": "True",
            "logging.dag_processor_manager_log_location": str(site.home / "logs" / "dag-processor.log"),
            "scheduler.child_process_log_directory": str(site.home / "logs" / "dag-files"),
            # a changed file shows up within seconds instead of minutes
            "scheduler.dag_dir_list_interval": "5",
            "scheduler.min_file_process_interval": "5",
            "scheduler.parsing_processes": "1",
        }

    def api(self, site: Site) -> AirflowApi:
        return AirflowApiV1(f"{site.url}/api/v1", httpx.BasicAuth(ADMIN, site.admin_password))


class Airflow2WithTriggerer(Airflow2):
    """The same, for DAGs whose tasks defer."""

    components: ClassVar[Mapping[str, Sequence[str]]] = {
        **Airflow2.components,
        "triggerer": ("triggerer", "--skip-serve-logs"),
    }
    health_keys: ClassVar[Mapping[str, str]] = {**Airflow2.health_keys, "triggerer": "triggerer"}


class Airflow3(Release):
    """Airflow 3.x: every task talks to the API server, and whoever opens the page is an admin."""

    line = "3."
    environment = ".venv"
    components: ClassVar[Mapping[str, Sequence[str]]] = {
        "api-server": ("api-server",),
        "scheduler": ("scheduler", "--skip-serve-logs"),
        "dag-processor": ("dag-processor",),
        "triggerer": ("triggerer", "--skip-serve-logs"),
    }
    health_path = "/api/v2/monitor/health"
    health_keys: ClassVar[Mapping[str, str]] = {
        "scheduler": "scheduler",
        "dag-processor": "dag_processor",
        "triggerer": "triggerer",
    }
    has_passwords = False

    def migrate(self, site: Site) -> Sequence[Sequence[str]]:  # noqa: ARG002 - nobody has an account
        return (("db", "migrate"),)

    def settings(self, site: Site) -> dict[str, str]:
        return _common_settings(site) | {
            "core.execution_api_server_url": f"{site.url}/execution/",
            "core.simple_auth_manager_all_admins": "True",
            "core.simple_auth_manager_passwords_file": str(site.home / "passwords.json"),
            "api.base_url": f"http://localhost:{site.api_port}",
            "api.host": LOOPBACK,
            "api.port": str(site.api_port),
            "api.workers": "1",
            "api.secret_key": site.api_secret,
            "api_auth.jwt_secret": site.jwt_secret,
            "logging.dag_processor_child_process_log_directory": str(site.home / "logs" / "dag-files"),
            # a changed file shows up within seconds instead of minutes
            "dag_processor.refresh_interval": "5",
            "dag_processor.min_file_process_interval": "5",
            "dag_processor.parsing_processes": "1",
        }

    def api(self, site: Site) -> AirflowApi:
        return AirflowApi(f"{site.url}/api/v2", OwnToken(f"{site.url}/auth/token", site.jwt_secret))


def _common_settings(site: Site) -> dict[str, str]:
    return {
        "core.dags_folder": str(site.dags_folder),
        "core.plugins_folder": str(site.plugins_folder),
        "core.load_examples": "False",
        "core.fernet_key": site.fernet_key,
        "core.hostname_callable": "socket.gethostname",  # the default asks the name server
        "core.min_serialized_dag_update_interval": "1",
        "database.sql_alchemy_conn": sqlalchemy_url(site.metadata_dsn),
        "logging.base_log_folder": str(site.home / "logs" / "tasks"),
        "logging.colored_console_log": "False",
        "scheduler.scheduler_heartbeat_sec": "1",
        "scheduler.scheduler_idle_sleep_time": "0.5",
        "usage_data_collection.enabled": "False",
    }


def sqlalchemy_url(dsn: str) -> str:
    """The driver named, as both SQLAlchemy 1.4 and 2 need it for the same one."""
    return dsn.replace("postgresql://", "postgresql+psycopg2://", 1)


AIRFLOW_2 = Airflow2()
AIRFLOW_2_WITH_TRIGGERER = Airflow2WithTriggerer()
AIRFLOW_3 = Airflow3()


def installed_release() -> Release:
    """The one that this Python has."""
    return AIRFLOW_2 if AIRFLOW_2.installed else AIRFLOW_3
