"""2013, tick by tick: a tick fires when its day is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property

from airflow_exclusive.core.ticks import tick_key

JOB = "flights_rollup"
GUARDED_DAG = "flights_rollup"
UNGUARDED_DAG = "flights_rollup_unguarded"


@dataclass(frozen=True)
class Period:
    """The days whose ticks fire from `first` to `last`; `flights` is how many left on them."""

    name: str
    first: datetime
    last: datetime
    flights: int

    @cached_property
    def ticks(self) -> list[str]:
        return [tick_key(self.first + timedelta(days=day)) for day in range((self.last - self.first).days + 1)]


def _tick(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=timezone.utc)


JANUARY = Period("January 2013", _tick(2013, 1, 2), _tick(2013, 2, 1), 27_004)
YEAR = Period("2013", _tick(2013, 1, 2), _tick(2014, 1, 1), 336_776)
