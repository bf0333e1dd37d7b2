"""Operators that have an argument or attribute of one of our names themselves, a `redis_conn_id` or `job_name`, say.

That one is the operator's own, and ours is called `exclusive_<name>`, as an argument and as an attribute.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Set
from functools import wraps
from typing import Any, TypeVar, cast

from airflow_exclusive.core.errors import InvalidSetting

Init = TypeVar("Init", bound=Callable[..., None])

THEIRS = "arguments of the operator"
"""Key under which `__init__` is given those that it would take for its own."""


def taken(ours: Set[str], bases: Iterable[type]) -> dict[str, str]:
    """Those of our names that the operator's classes or their `__init__` have, and what they are called instead."""
    theirs: set[str] = set()
    for base in bases:
        theirs |= vars(base).keys()
        if base is not object and "__init__" in vars(base):
            theirs |= inspect.signature(base.__init__).parameters.keys()  # type: ignore[misc]
    return {name: f"exclusive_{name}" for name in sorted(ours & theirs)}


def own_parameters(init: Callable[..., None], names: Mapping[str, str]) -> inspect.Signature:
    """Airflow reads there which of the `default_args` it is to apply."""
    signature = inspect.signature(init)
    renamed = (each.replace(name=names.get(each.name, each.name)) for each in signature.parameters.values())
    return signature.replace(parameters=list(renamed))


def under_own_names(init: Init) -> Init:
    """Let `__init__` be given our arguments by the names that they have in the class."""

    @wraps(init)
    def renamed(self: Any, /, **given: Any) -> None:
        names = self.exclusive_names
        if names:
            given[THEIRS] = {name: given.pop(name) for name in names if name in given}
            given |= {name: given.pop(ours) for name, ours in names.items() if ours in given}
        with _errors_named(names):
            init(self, **given)

    return cast("Init", renamed)


def with_own_names(
    check: Callable[[Mapping[str, Any]], None], names: Mapping[str, str]
) -> Callable[[Mapping[str, Any]], None]:
    """`check`, which knows our arguments by their usual names, for arguments of a class that has other ones."""

    def checked(given: Mapping[str, Any]) -> None:
        ours = {name: value for name, value in given.items() if name not in names}
        with _errors_named(names):
            check(ours | {name: given[own] for name, own in names.items() if own in given})

    return checked


class _errors_named:  # noqa: N801 - used like a function
    """`InvalidSetting` names the argument as it was given."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidSetting) and error.field in self._names:
            raise InvalidSetting(self._names[error.field], error.value, error.cure) from None
