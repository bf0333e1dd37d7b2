"""`{{ lease.token }}` in templated fields: known only after admission, which comes after rendering.

While Airflow renders, `lease` stands for itself; once the lease is there, what it left behind is filled in. That is a
plain replacement, not a second rendering, so nothing that came out of the first one is ever taken for a template.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_exclusive.core.errors import InvalidSetting

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease

_NAMES = ("token", "owner", "run_key", "job_name", "generation", "attempt")
_LATE = re.compile(r"\{\{ lease\.(" + "|".join(_NAMES) + r") \}\}")


class LeaseInTemplate:
    """What `lease` is while templates are rendered."""

    def __getattr__(self, name: str) -> str:
        if name not in _NAMES:
            raise InvalidSetting("template", f"lease.{name}", "must be one of " + ", ".join(_NAMES))
        return f"{{{{ lease.{name} }}}}"


def refuse_lease_in(field: str, value: str) -> None:
    """Raise `InvalidSetting` where a name was to be made of the lease, which it is only needed to ask for."""
    if _LATE.search(value):
        raise InvalidSetting(field, value, "can't name the lease, which comes after the name: leave that out")


def filled_in(value: Any, lease: Lease) -> Any:
    """`value` with every `{{ lease.… }}` in it replaced; text, lists, tuples, sets and dicts are looked through."""
    if isinstance(value, str):
        return _LATE.sub(lambda match: str(getattr(lease, match.group(1))), value)
    if type(value) is dict:
        return {filled_in(key, lease): filled_in(entry, lease) for key, entry in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(filled_in(entry, lease) for entry in value)
    return value
