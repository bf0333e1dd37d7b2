"""The SQL files, ready to run in a schema."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from airflow_exclusive.core.errors import InvalidSetting

DEFAULT_SCHEMA = "exclusive"

_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_SCHEMA_NAME = re.compile(r"(?!.*\$\$)[A-Za-z_][A-Za-z0-9_$]{0,62}")
"""Not `$$`, which would end the body of a function that names it."""


def check_schema(name: str) -> str:
    """Give `name` back if it can be a schema. Raises `InvalidSetting`."""
    if not isinstance(name, str) or not _SCHEMA_NAME.fullmatch(name):
        raise InvalidSetting("schema", name, "must be a plain name of letters, digits and _ (at most 63)")
    return name


@cache
def statement(name: str, schema: str) -> str:
    """The text of `sql/<name>.sql` for a schema, without its comments."""
    text = (files(__package__) / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return _filled_in(_COMMENT.sub("", text), schema)


def migrations(kind: str, schema: str) -> list[tuple[int, str]]:
    """The numbered files of `migrations/<kind>/`, in order."""
    return [(int(name[:4]), _filled_in(text, schema)) for name, text in _numbered("migrations", kind)]


def functions(schema: str) -> list[str]:
    """The files of `functions/`, in order: replaced by every `init`."""
    return [_filled_in(text, schema) for _, text in _numbered("functions")]


def function_bodies(schema: str) -> dict[str, str]:
    """By their names: what the server keeps of each file of `functions/`."""
    return {name[2:-4]: _filled_in(text, schema).split("$$")[1] for name, text in _numbered("functions")}


def _numbered(*path: str) -> list[tuple[str, str]]:
    folder = files(__package__).joinpath(*path)
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return [(entry.name, entry.read_text(encoding="utf-8")) for entry in entries]


def _filled_in(text: str, schema: str) -> str:
    return text.replace("{schema}", f'"{check_schema(schema)}"')
