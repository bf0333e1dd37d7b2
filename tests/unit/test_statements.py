"""The SQL files as they are sent."""

from __future__ import annotations

from importlib.resources import files

import pytest

from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.stores.postgres.statements import check_schema, migrations, statement

NAMES = sorted(
    entry.name.removesuffix(".sql") for entry in (files("airflow_exclusive.stores.postgres") / "sql").iterdir()
)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_loads_with_its_includes_and_schema_filled_in(name: str) -> None:
    text = statement(name, "Jobs_1")
    assert "{" not in text
    assert "scheduled_job" not in text.replace('"Jobs_1".scheduled_job', "")
    assert not [line for line in text.splitlines() if line.lstrip().startswith("--")]


@pytest.mark.parametrize("name", NAMES)
def test_percent_signs_are_parameters_only(name: str) -> None:
    assert statement(name, "s").count("%") == statement(name, "s").count("%(")


@pytest.mark.parametrize("kind", ["status", "effects"])
def test_migrations_are_numbered_without_gaps(kind: str) -> None:
    versions = [version for version, _ in migrations(kind, "s")]
    assert versions == list(range(1, len(versions) + 1)) != []


@pytest.mark.parametrize("name", ["exclusive", "_jobs", "Jobs2", "a$b$", "a" * 63])
def test_a_plain_schema_name_is_accepted(name: str) -> None:
    assert check_schema(name) == name


@pytest.mark.parametrize("name", ["", "1x", 'a"; DROP', "a.b", "a b", "a\n", "a$$b", "a" * 64, "模式", None, 3])
def test_any_other_schema_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidSetting, match="schema="):
        check_schema(name)  # type: ignore[arg-type]
