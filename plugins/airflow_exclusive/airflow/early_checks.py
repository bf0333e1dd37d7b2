"""Finding bad input when the DAG is parsed, as far as it can be known then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def checked_unless_template(check: Callable[[object], str], value: Any) -> Any:
    """`check(value)`, unless a template or an upstream task will only give the value when the task runs."""
    return check(value) if is_known(value) else value


def is_known(value: Any) -> bool:
    """Whether the value is there when the DAG is parsed."""
    return not (hasattr(value, "resolve") or (isinstance(value, str) and ("{{" in value or "{%" in value)))
