"""What is compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deploy.embedded.release import AIRFLOW_3
from deploy.embedded.stack import FULL, MINI, Profile


@dataclass(frozen=True)
class Column:
    profile: Profile
    title: str

    @property
    def name(self) -> str:
        return self.profile.name


COLUMNS = (
    Column(FULL, "full: Airflow 3.3, LocalExecutor, parallelism 4"),
    Column(Profile("narrow", AIRFLOW_3, "LocalExecutor", parallelism=1), "Airflow 3.3, LocalExecutor, parallelism 1"),
    Column(MINI, "mini: Airflow 2.11, SequentialExecutor"),
)
BOTH = "both"
TITLES = {column.name: column.title for column in COLUMNS} | {BOTH: "full and mini side by side"}


@dataclass(frozen=True)
class Sample:
    """One measured value: of which column, in which case, guarded or plain or by a named mode."""

    column: str
    case: str
    variant: str
    value: float
    unit: str
    detail: str = ""

    def __str__(self) -> str:
        variant = f", {self.variant}" if self.variant else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.case}{variant}: {self.value:.3g} {self.unit}".rstrip() + detail


Samples = Iterable[Sample]
