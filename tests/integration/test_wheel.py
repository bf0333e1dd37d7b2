"""What is installed from the wheel has all that the checkout has."""

from __future__ import annotations

import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from airflow_exclusive.stores.postgres.schema import script
from deploy.embedded.release import PROJECT

ENTRY_POINTS = {
    "airflow.plugins": {"airflow_exclusive": "airflow_exclusive.airflow.plugin:AirflowExclusivePlugin"},
    "apache_airflow_provider": {"provider_info": "airflow_exclusive.airflow.provider:get_provider_info"},
    "console_scripts": {"airflow-exclusive": "airflow_exclusive.cli:main"},
    "pytest11": {"airflow_exclusive": "airflow_exclusive.airflow.pytest_plugin"},
}
"""How Airflow, pip and pytest find us."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_every_file_of_the_package_is_in_it_and_nothing_else(installed: Path) -> None:
    def below(folder: Path) -> set[str]:
        files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        return {str(file) for file in files if "__pycache__" not in file.parts}

    package = below(PROJECT / "plugins" / "airflow_exclusive")
    assert {Path(name).suffix for name in package} == {".py", ".sql", ".lua", ".js", ".html", ".typed"}
    assert below(installed / "airflow_exclusive") == package
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"airflow_exclusive"}


def test_airflow_pytest_and_the_shell_find_it(installed: Path) -> None:
    (told,) = installed.glob("*.dist-info/entry_points.txt")
    parser = ConfigParser()
    parser.read(told)
    assert {group: dict(parser[group]) for group in parser.sections()} == ENTRY_POINTS
    modules = [value.partition(":")[0] for group in ENTRY_POINTS.values() for value in group.values()]
    places = [installed / name.replace(".", "/") for name in modules]
    assert [place for place in places if not (place.with_suffix(".py").exists() or place.is_dir())] == []


def test_its_statements_are_those_of_the_checkout(installed: Path) -> None:
    command = [sys.executable, "-m", "airflow_exclusive.cli", "init", "--sql"]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=installed, env=env, check=True, capture_output=True, text=True)
    assert done.stdout == script()
