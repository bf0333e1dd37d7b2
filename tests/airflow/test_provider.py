"""What the provider metadata promises is there."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from airflow.providers.common.compat.sdk import conf

from airflow_exclusive import __version__
from airflow_exclusive.airflow import config
from airflow_exclusive.airflow.provider import get_provider_info
from tests.airflow.interpreter import told_by

LISTED = """
import json
from airflow.providers_manager import ProvidersManager
from airflow.providers.common.compat.sdk import conf, task
manager = ProvidersManager()
info = manager.providers["airflow-exclusive"]
manager.initialize_providers_configuration()
print(json.dumps({
    "version": info.version,
    "decorator": f"{task.exclusive.__module__}.{task.exclusive.__name__}",
    "redis_conn_id": conf.get("exclusive", "redis_conn_id"),
    "schema": conf.get("exclusive", "schema"),
}))
"""


def test_the_metadata_is_as_airflow_wants_it() -> None:
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_airflow_lists_the_provider_its_decorator_and_its_settings() -> None:
    assert told_by(LISTED) == {
        "version": __version__,
        "decorator": "airflow_exclusive.airflow.decorators.exclusive_task",
        "redis_conn_id": "exclusive_redis",
        "schema": "exclusive",
    }


def test_there_is_one_version() -> None:
    assert get_provider_info()["versions"][0] == __version__ == version("airflow-exclusive")


def test_the_settings_described_are_those_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, str] = {}

    def note(key: str, fallback: str) -> str:
        read[key] = fallback
        return fallback

    monkeypatch.setattr(config, "_get", note)
    for name, function in inspect.getmembers(config, inspect.isfunction):
        if function.__module__ == config.__name__ and not name.startswith("_"):
            function()
    described: dict[str, Any] = get_provider_info()["config"][config.SECTION]["options"]
    assert read == {name: option["default"] for name, option in described.items()}
    assert "redis_conn_id" in read


def test_a_setting_that_is_empty_counts_as_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EXCLUSIVE__REDIS_CONN_ID", "")
    assert config.redis_conn_id() == "exclusive_redis"


def test_a_setting_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("AIRFLOW__EXCLUSIVE__SCHEMA", value)
        assert config.schema() == value == conf.get("exclusive", "schema")
