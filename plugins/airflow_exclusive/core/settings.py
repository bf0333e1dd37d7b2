"""How a job is held: durations in seconds, and the policies of the tutorial and beyond."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from airflow_exclusive.core.errors import InvalidSetting

OnBusy = Literal["skip", "wait", "fail"]
OnDone = Literal["skip", "success", "fail"]
OnLeaseLost = Literal["stop", "raise", "warn"]
OnRedisDown = Literal["fail", "postgres"]

DEFAULT_TTL = 30.0
MIN_TTL = 1.0
MAX_TTL = 7 * 86400.0
FIXED_TTL = 300.0
"""The tutorial's takeover time for a fixed lease of a job whose duration nobody stated."""
FIXED_TTL_FACTOR = 3
ASKERS_LOCK = 30.0
"""Whoever dies between lock and claim, or is woken and never comes, holds up nobody for longer, however long the lease
was to be."""


def check_choice(field: str, value: object, choices: object) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidSetting(field, value, "must be one of " + ", ".join(repr(choice) for choice in allowed))


def check_seconds(field: str, value: object, *, least: float = 0.0, most: float = MAX_TTL) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -math.inf < value < math.inf:
        raise InvalidSetting(field, value, "must be a number of seconds")
    if not least <= value <= most:
        raise InvalidSetting(field, value, f"must be between {least:g} and {most:g} seconds")
    return float(value)


@dataclass(frozen=True)
class LeaseSettings:
    """How long a lease lasts and what happens when it can't be kept. All durations in seconds.

    ttl: how long the stores believe in a runner that says nothing; it is renewed at a third of it. A dead node is
        replaced within this time. Left out: 30 s, or with `renew=False` 3 x `expected_duration`, or 300 s.
    renew: False gives the tutorial's fixed lease: nobody else is admitted for `ttl`, whether or not the job has ended.
        Of that the job has 0.9 ttl less the grace in which it is stopped, a fifth of ttl but at most 6 s.
    max_run_time: after this time the lease isn't renewed any more and the loss policy acts.
    hold_at_least: keep others out for this long after the start, even if the job is done sooner.
    on_lease_lost: "stop" ends the work before the lease can lapse, "raise" at the next `lease.ensure_held()`,
        "warn" only logs; writes of a stale runner are refused in every case.
    on_redis_down: "fail" admits nobody while Redis doesn't answer, "postgres" lets Postgres decide alone.

    Raises `InvalidSetting`.
    """

    ttl: float | None = None
    renew: bool = True
    expected_duration: float | None = None
    max_run_time: float | None = None
    hold_at_least: float = 0.0
    on_lease_lost: OnLeaseLost = "stop"
    on_redis_down: OnRedisDown = "fail"

    def __post_init__(self) -> None:
        if self.ttl is not None:
            check_seconds("lock_ttl", self.ttl, least=MIN_TTL)
        if self.expected_duration is not None:
            check_seconds("expected_duration", self.expected_duration, least=0.001, most=MAX_TTL / FIXED_TTL_FACTOR)
        if self.max_run_time is not None:
            check_seconds("max_run_time", self.max_run_time, least=MIN_TTL, most=math.inf)
        if not isinstance(self.renew, bool):
            raise InvalidSetting("renew", self.renew, "must be True or False")
        check_seconds("hold_at_least", self.hold_at_least)
        check_choice("on_lease_lost", self.on_lease_lost, OnLeaseLost)
        check_choice("on_redis_down", self.on_redis_down, OnRedisDown)
        if self.renew and self.expected_duration is not None and self.ttl is None:
            raise InvalidSetting(
                "expected_duration",
                self.expected_duration,
                "only counts with renew=False (a renewed lease lasts as long as the job): remove it or set that",
            )

    @property
    def seconds(self) -> float:
        """The ttl in force."""
        if self.ttl is not None:
            return float(self.ttl)
        if self.renew:
            return DEFAULT_TTL
        if self.expected_duration is not None:
            return max(MIN_TTL, FIXED_TTL_FACTOR * self.expected_duration)
        return FIXED_TTL
