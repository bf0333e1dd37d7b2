"""What differs between the lines of Airflow: the processes they consist of, their settings, where they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deploy.embedded.ports import LOOPBACK


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


class Release:
    """One line of Airflow. A further one is a further subclass, handed to `AirflowDeployment`."""

    components: ClassVar[Mapping[str, Sequence[str]]]
    """Name of each process, and the arguments of `airflow` that start it."""
    migrate: ClassVar[Sequence[Sequence[str]]]
    """Arguments of `airflow` that bring the metadata database up to date, in order."""
    health_path: ClassVar[str]
    health_keys: ClassVar[Mapping[str, str]]
    """Component -> its key in the health answer, for those that report a heartbeat."""
    api_path: ClassVar[str]

    def settings(self, site: Site) -> dict[str, str]:
        """Airflow's settings, as `section.option`."""
        raise NotImplementedError


class Airflow3(Release):
    """Airflow 3.x: every task talks to the API server, and whoever opens the page is an admin."""

    components: ClassVar[Mapping[str, Sequence[str]]] = {
        "api-server": ("api-server",),
        "scheduler": ("scheduler", "--skip-serve-logs"),
        "dag-processor": ("dag-processor",),
        "triggerer": ("triggerer", "--skip-serve-logs"),
    }
    migrate = (("db", "migrate"),)
    health_path = "/api/v2/monitor/health"
    health_keys: ClassVar[Mapping[str, str]] = {
        "scheduler": "scheduler",
        "dag-processor": "dag_processor",
        "triggerer": "triggerer",
    }
    api_path = "/api/v2"

    def settings(self, site: Site) -> dict[str, str]:
        return _common_settings(site) | {
            "core.execution_api_server_url": f"http://{LOOPBACK}:{site.api_port}/execution/",
            "core.simple_auth_manager_all_admins": "True",
            "core.simple_auth_manager_passwords_file": str(site.home / "passwords.json"),
            "api.base_url": f"http://localhost:{site.api_port}",
            "api.host": LOOPBACK,
            "api.port": str(site.api_port),
            "api.workers": "1",
            "api.secret_key": site.api_secret,
            "api_auth.jwt_secret": site.jwt_secret,
            # a changed file shows up within seconds instead of minutes
            "dag_processor.refresh_interval": "5",
            "dag_processor.min_file_process_interval": "5",
            "dag_processor.parsing_processes": "1",
        }


def _common_settings(site: Site) -> dict[str, str]:
    logs = site.home / "logs"
    return {
        "core.dags_folder": str(site.dags_folder),
        "core.plugins_folder": str(site.plugins_folder),
        "core.load_examples": "False",
        "core.fernet_key": site.fernet_key,
        "core.hostname_callable": "socket.gethostname",  # the default asks the name server
        "core.min_serialized_dag_update_interval": "1",
        "database.sql_alchemy_conn": sqlalchemy_url(site.metadata_dsn),
        "logging.base_log_folder": str(logs / "tasks"),
        "logging.dag_processor_child_process_log_directory": str(logs / "dag-files"),
        "logging.colored_console_log": "False",
        "scheduler.scheduler_heartbeat_sec": "1",
        "scheduler.scheduler_idle_sleep_time": "0.5",
        "usage_data_collection.enabled": "False",
    }


def sqlalchemy_url(dsn: str) -> str:
    """The driver named, as both SQLAlchemy 1.4 and 2 need it for the same one."""
    return dsn.replace("postgresql://", "postgresql+psycopg2://", 1)


AIRFLOW_3 = Airflow3()
