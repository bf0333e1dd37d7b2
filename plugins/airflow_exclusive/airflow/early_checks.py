"""Finding bad input when the DAG is parsed, as far as it can be known then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow_exclusive.core.errors import InvalidSetting


def checked_unless_template(check: Callable[[object], str], value: Any) -> Any:
    """`check(value)`, unless a template or an upstream task will only give the value when the task runs."""
    return check(value) if is_known(value) else value


def is_known(value: Any) -> bool:
    """Whether the value is there when the DAG is parsed."""
    return not (hasattr(value, "resolve") or (isinstance(value, str) and ("{{" in value or "{%" in value)))


def check_default_args(
    check: Callable[[Mapping[str, Any]], None], given: Mapping[str, Any], dag: Any, task_group: Any
) -> None:
    """`check` each value that a mapped task will have from `default_args`, as `given` doesn't say it.

    Each alone: what it has to fit may be mapped over.
    """
    defaults: dict[str, Any] = {}
    for holder in (dag, task_group):
        defaults.update(getattr(holder, "default_args", None) or {})
    defaults.update(given.get("default_args") or {})
    for name in defaults.keys() - given.keys():
        check({name: defaults[name]})


def checked_partial(check: Callable[[Mapping[str, Any]], None], given: Mapping[str, Any], made: Any) -> Any:
    """What Airflow has `made` of a `partial(**given)`, once its `default_args` are checked: Airflow finds them."""
    try:
        check_default_args(check, given, made.kwargs["dag"], made.kwargs["task_group"])
    except InvalidSetting:
        made._expand_called = True  # or Airflow would complain as well, that it never was
        raise
    return made
