"""Airflow loads the plugin exactly once, whichever way it was installed."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.release import PROJECT
from tests.airflow.interpreter import told_by

PLUGINS = PROJECT / "plugins"
STEMS = {path.stem for path in PLUGINS.rglob("*.py")}

LOADED = """
import json, sys
from airflow.providers.common.compat.sdk import BaseOperator  # Airflow 2 loads Flask for that
before = set(sys.modules)
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded()
try:
    plugins, errors = plugins_manager._get_plugins()
except AttributeError:
    plugins, errors = plugins_manager.plugins, plugins_manager.import_errors
from airflow.listeners.listener import get_listener_manager
listeners = [getattr(module, "__name__", "") for module in get_listener_manager().pm.get_plugins()]
print(json.dumps({
    "plugins": [[plugin.name, str(plugin.source)] for plugin in plugins],
    "errors": errors,
    "listeners": listeners,
    "modules": sorted(set(sys.modules) - before),
}))
"""
PARSED = """
import json, sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:
    from airflow.models import DagBag
bag = DagBag(sys.argv[1])
dags = {dag.dag_id: sorted(dag.task_dict) for dag in bag.dags.values()}
print(json.dumps({"errors": bag.import_errors, "dags": dags}))
"""
CONFIGURED = """
import json, sys
sys.path.append(sys.argv[1])
from airflow_exclusive.airflow import config
print(json.dumps([config.redis_conn_id(), config.postgres_conn_id(), config.schema()]))
"""
A_DAG = """
from airflow.providers.common.compat.sdk import DAG
from airflow_exclusive import ExclusiveBashOperator, JobStatusSensor, exclusive_task

with DAG("dropped_in", schedule=None):
    ExclusiveBashOperator(task_id="bash", bash_command="true", job_name="x")
    JobStatusSensor(task_id="sensor", job_name="x")

    @exclusive_task(job_name="y")
    def decorated(lease): ...

    decorated()
"""


@pytest.fixture(scope="module")
def without_us(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How to start an interpreter that has everything installed but this package."""
    folder = tmp_path_factory.mktemp("site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "airflow_exclusive" not in entry.name and "_editable_" not in entry.name:
            (folder / entry.name).symlink_to(entry)
    return {"options": ["-S"], "env": {"PYTHONPATH": str(folder)}}


@pytest.fixture(scope="module")
def dropped_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugins folder into which ours has been copied."""
    folder = tmp_path_factory.mktemp("deployment") / "plugins"
    shutil.copytree(PLUGINS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def loaded_from_folder(without_us: dict[str, Any], dropped_in: Path) -> Any:
    return loaded(dropped_in, **without_us)


def loaded(plugins: Path, *, options: list[str] | None = None, env: dict[str, str] | None = None) -> Any:
    environment = {"AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins), **(env or {})}
    return told_by(LOADED, options=options or [], env=environment)


def ours(told: Any) -> list[str]:
    """Where our plugin came from, each time that it was registered."""
    return [source for name, source in told["plugins"] if name == "airflow_exclusive"]


def test_installed_and_dropped_in_at_once_it_is_registered_once_by_its_entry_point() -> None:
    told = loaded(PLUGINS)
    (source,) = ours(told)
    assert "airflow-exclusive==" in source
    assert told["errors"] == {}
    assert told["listeners"].count("airflow_exclusive.airflow.listener") == 1


def test_dropped_in_alone_it_is_registered_once_from_its_file(loaded_from_folder: Any) -> None:
    assert ours(loaded_from_folder) == ["$PLUGINS_FOLDER/airflow_exclusive_plugin.py"]
    assert loaded_from_folder["errors"] == {}
    assert loaded_from_folder["listeners"].count("airflow_exclusive.airflow.listener") == 1


def test_a_process_that_loads_the_plugin_loads_no_drivers_and_no_web_code(loaded_from_folder: Any) -> None:
    assert "airflow_exclusive.airflow.listener" in loaded_from_folder["modules"]
    assert {"redis", "psycopg", "fastapi", "flask"}.isdisjoint(loaded_from_folder["modules"])


def test_dropped_in_alone_dags_can_use_it(without_us: Any, dropped_in: Path, tmp_path: Path) -> None:
    (tmp_path / "dag.py").write_text(A_DAG)
    environment = {**without_us["env"], "AIRFLOW__CORE__PLUGINS_FOLDER": str(dropped_in)}
    told = told_by(PARSED, str(tmp_path), options=without_us["options"], env=environment)
    assert told == {"errors": {}, "dags": {"dropped_in": ["bash", "decorated", "sensor"]}}


def test_dropped_in_alone_its_settings_have_their_defaults(without_us: Any, dropped_in: Path) -> None:
    """Airflow doesn't know them: no provider has told it."""
    assert told_by(CONFIGURED, str(dropped_in), **without_us) == ["exclusive_redis", "exclusive_postgres", "exclusive"]


def test_without_its_ignore_file_it_is_still_registered_once_and_airflow_lives(
    without_us: Any, dropped_in: Path, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    shutil.copytree(dropped_in, plugins, ignore=shutil.ignore_patterns(".airflowignore"))
    told = loaded(plugins, **without_us)
    assert len(ours(told)) == 1
    assert told["listeners"].count("airflow_exclusive.airflow.listener") == 1
    assert all("already registered" in error for error in told["errors"].values()), told["errors"]


def test_the_ignore_file_hides_the_package_from_the_scan(loaded_from_folder: Any) -> None:
    assert (STEMS - {"airflow_exclusive_plugin", "__init__", "__main__"}).isdisjoint(loaded_from_folder["modules"])


def test_no_module_of_ours_would_take_the_place_of_another_package_in_such_a_scan() -> None:
    assert "mixin" in STEMS
    others = set(sys.stdlib_module_names) | packages_distributions().keys()
    assert (STEMS - {"__init__", "__main__"}).isdisjoint(others)
