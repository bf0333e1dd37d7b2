"""What child processes are told: the lease under which they work, in this process's environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

OWNER = "EXCLUSIVE_OWNER"
"""Whose a program is: the owners of all leases that were entered when it was started, with a space in between."""

_SCHEMA = "EXCLUSIVE_SCHEMA"
NAMES = ("EXCLUSIVE_JOB", "EXCLUSIVE_RUN_KEY", "EXCLUSIVE_TOKEN", "EXCLUSIVE_GENERATION", OWNER, _SCHEMA)


@dataclass(frozen=True)
class Told:
    """One lease's part: `around` is the owner of the lease in whose block it was entered."""

    owner: str
    around: str | None
    environment: Mapping[str, str]


class Environment:
    """The environment is the whole process's, while leases may overlap in threads and tasks of an event loop.

    It names the innermost lease as long as each was entered within the one before. Otherwise it names none to write
    under: a child of one would write in the name of another. Whoever is started belongs to all of them, those of the
    processes around included: by that it is found when one is killed.
    """

    def __init__(self) -> None:
        self._entered: list[Told] = []
        self._outside: dict[str, str] = {}
        self._one_by_one = threading.Lock()

    def enter(self, told: Told) -> None:
        with self._one_by_one:
            if not self._entered:
                self._outside = {name: os.environ[name] for name in NAMES if name in os.environ}
            self._entered.append(told)
            self._tell()

    def leave(self, owner: str) -> None:
        with self._one_by_one:
            self._entered = [told for told in self._entered if told.owner != owner]
            self._tell()

    def _tell(self) -> None:
        told = self._told()
        for name in NAMES:
            if name in told:
                os.environ[name] = told[name]
            else:
                os.environ.pop(name, None)

    def _told(self) -> Mapping[str, str]:
        if not self._entered:
            return self._outside
        owners = " ".join([*self._outside.get(OWNER, "").split(), *(told.owner for told in self._entered)])
        pairs = zip(self._entered, self._entered[1:], strict=False)
        nested = all(inner.around == outer.owner for outer, inner in pairs)
        # The schema is a setting, too, for children that guard a job of their own.
        kept = {name: value for name, value in self._outside.items() if name == _SCHEMA}
        return {**(self._entered[-1].environment if nested else kept), OWNER: owners}
