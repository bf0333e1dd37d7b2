"""Every error of the package. "Somebody else has it" is not one of them: that is a value, see `admission.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_exclusive.core.admission import AlreadyDone, Busy


class ExclusiveError(Exception):
    """Root of all errors raised by airflow-exclusive."""


class InvalidSetting(ExclusiveError, ValueError):
    """A setting that can't work: names the field, the value it had and what to write instead."""

    def __init__(self, field: str, value: object, cure: str) -> None:
        super().__init__(f"{field}={value!r}: {cure}")
        self.field, self.value, self.cure = field, value, cure

    def __reduce__(self) -> tuple[type[InvalidSetting], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.cure)


class LeaseLost(ExclusiveError):
    """This attempt is no longer the job's runner: what it does from now on is refused."""


class StaleWrite(LeaseLost):
    """A store refused a write because a later attempt, or a person, has ended this one."""


class StoreUnavailable(ExclusiveError):
    """Redis or Postgres didn't answer in time, so nothing was admitted (or the outcome isn't known)."""


class StoreMisconfigured(ExclusiveError):
    """A store answered, but can't be used as it is: no schema, no privileges, wrong server."""


class NotAdmitted(ExclusiveError):
    """`guard.hold()` didn't get the lease; `.admission` says why."""

    def __init__(self, admission: Busy | AlreadyDone) -> None:
        super().__init__(str(admission))
        self.admission = admission

    def __reduce__(self) -> tuple[type[NotAdmitted], tuple[Busy | AlreadyDone]]:
        return type(self), (self.admission,)
