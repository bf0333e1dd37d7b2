"""What a job, a tick and a deployment may be called: all that parsing a DAG needs to know of them."""

from __future__ import annotations

import re

from airflow_exclusive.core.errors import InvalidSetting

MAX_NAME = 250
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNDECODABLE = re.compile(r"[\ud800-\udfff]")  # what Python makes of a byte that isn't UTF-8; no store can hold it


def _checked(field_name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidSetting(field_name, value, f"must be text, not {type(value).__name__}")
    if not value.strip():
        raise InvalidSetting(field_name, value, "must not be empty; leave it out for the default")
    if len(value) > MAX_NAME:
        raise InvalidSetting(field_name, value, f"has {len(value)} characters; at most {MAX_NAME} are allowed")
    if found := _CONTROL.search(value):
        raise InvalidSetting(field_name, value, f"has the control character {found.group()!r}; remove it")
    if found := _UNDECODABLE.search(value):
        raise InvalidSetting(
            field_name, value, f"has the undecodable character {found.group()!r}; write it in UTF-8, or remove it"
        )
    return value


def check_job_name(value: object) -> str:
    """Give `value` back if it can name a job. Raises `InvalidSetting`.

    Any text of 1 to 250 characters without control and undecodable characters will do: quotes, colons, braces and every
    script are fine, since names are only ever passed as parameters.
    """
    return _checked("job_name", value)


def check_run_key(value: object) -> str:
    """Give `value` back if it can name a tick. Raises `InvalidSetting`."""
    return _checked("run_key", value)


UNNAMED = "airflow"
"""The deployment of those that have no name and don't know where their UI is."""
