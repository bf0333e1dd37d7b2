"""The SQL files, ready to run in a schema."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from airflow_exclusive.core.errors import InvalidSetting

DEFAULT_SCHEMA = "exclusive"

_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_INCLUDE = re.compile(r"\{include:(\w+)\}")
_SCHEMA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


def check_schema(name: str) -> str:
    """Give `name` back if it can be a schema. Raises `InvalidSetting`."""
    if not isinstance(name, str) or not _SCHEMA_NAME.fullmatch(name):
        raise InvalidSetting("schema", name, "must be a plain name of letters, digits and _ (at most 63)")
    return name


@cache
def statement(name: str, schema: str) -> str:
    """The text of `sql/<name>.sql` for a schema, without its comments."""
    return _filled_in(_text(name), schema)


def migrations(kind: str, schema: str) -> list[tuple[int, str]]:
    """The numbered files of `migrations/<kind>/`, in order."""
    folder = files(__package__) / "migrations" / kind
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), _filled_in((folder / name).read_text(encoding="utf-8"), schema)) for name in names]


def _text(name: str) -> str:
    text = (files(__package__) / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: _text(match.group(1)).strip(), _COMMENT.sub("", text))


def _filled_in(text: str, schema: str) -> str:
    return text.replace("{schema}", f'"{check_schema(schema)}"')
