"""`{{ lease.token }}` in templated fields: known only after admission, which comes after rendering.

While Airflow renders, `lease` stands for itself; once the lease is there, what it left behind is filled in. That is a
plain replacement, not a second rendering, so nothing that came out of the first one is ever taken for a template. And
nothing can be made of what isn't known yet: a template that tries to is refused, or it would work with the placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_exclusive.airflow.compat import ObjectStoragePath
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting

if TYPE_CHECKING:
    from airflow_exclusive.core.lease import Lease

_NAMES = ("token", "owner", "run_key", "job_name", "generation", "attempt")
_LATE = re.compile(r"\{\{ lease\.(" + "|".join(_NAMES) + r") \}\}")


_FILTERED = re.compile(r"\{[{%](?:(?![%}]\}).)*?(?<![\w.])lease\s*\.\s*(" + "|".join(_NAMES) + r")\s*\|", re.DOTALL)


class LeaseInTemplate:
    """What `lease` is while templates are rendered."""

    def __getattr__(self, name: str) -> _Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in _NAMES:
            raise InvalidSetting("template", f"lease.{name}", "must be one of " + ", ".join(_NAMES))
        return _Placeholder(name)


class _Placeholder:
    """Can be written down, and nothing else."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return f"{{{{ lease.{self._name} }}}}"

    __html__ = __str__

    def __repr__(self) -> str:
        """Within a list or dict."""
        return repr(str(self))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    def _refuse(self, *_: object) -> NoReturn:
        refuse_use_of(self._name)

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _refuse
    __getitem__ = __len__ = __iter__ = __bool__ = __int__ = __float__ = __index__ = __hash__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __format__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __pow__ = __rpow__ = __neg__ = __pos__ = _refuse


def refuse_use_of(name: str) -> NoReturn:
    """No `InvalidSetting`, which is a `ValueError`: Jinja's filters take that for a value that they can't use."""
    raise ExclusiveError(
        f"template: lease.{name} is known only once the task is admitted, so it can only be written down as it stands,"
        f" {{{{ lease.{name} }}}}: compare, cut or filter it in the job, where context['lease'].{name} is there"
    )


def refuse_filters_of_lease(templates: Any) -> None:
    """A filter may ask for the text of what it is given, and the placeholder has one."""
    for text in _texts(templates):
        if filtered := _FILTERED.search(text):
            refuse_use_of(filtered.group(1))


def refuse_lease_in(field: str, value: str) -> None:
    """Raise `InvalidSetting` where a name was to be made of the lease, which it is only needed to ask for."""
    if _LATE.search(value):
        raise InvalidSetting(field, value, "can't name the lease, which comes after the name: leave that out")


def refuse_left_over(field: str, value: Any) -> None:
    """Raise `InvalidSetting` where the job would get the template's text for what it says."""
    for text in _texts(value):
        if left := _LATE.search(text):
            raise InvalidSetting(
                field, value, f"{left.group()} can't be filled in there: have it in plain text, lists, tuples and dicts"
            )


def filled_in(value: Any, lease: Lease) -> Any:
    """`value` with every `{{ lease.… }}` in it replaced, in what Airflow renders itself.

    That is text, paths, lists, tuples, sets and dicts; objects with templated fields of their own are left alone.
    """
    if isinstance(value, _Placeholder):  # rendered as a native object
        value = str(value)
    if isinstance(value, str):
        return _LATE.sub(lambda match: str(getattr(lease, match.group(1))), value)
    if type(value) is dict:
        return {filled_in(key, lease): filled_in(entry, lease) for key, entry in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(filled_in(entry, lease) for entry in value)
    if isinstance(value, tuple):  # with names
        return type(value)(*(filled_in(entry, lease) for entry in value))
    if isinstance(value, ObjectStoragePath) and _LATE.search(str(value)):
        return type(value).deserialize(filled_in(value.serialize(), lease), value.__version__)
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, (str, _Placeholder)):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from _texts(list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for entry in value:
            yield from _texts(entry)
