"""How long a lease lasts, and which settings can't work."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.settings import MAX_TTL, MIN_TTL, LeaseSettings


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 30),
        ({"ttl": 7}, 7),
        ({"renew": False}, 300),
        ({"renew": False, "expected_duration": 30}, 90),
        ({"renew": False, "expected_duration": 0.01}, MIN_TTL),
        ({"renew": False, "expected_duration": 30, "ttl": 45}, 45),
    ],
)
def test_the_ttl_in_force(settings: dict[str, Any], seconds: float) -> None:
    assert LeaseSettings(**settings).seconds == seconds


@pytest.mark.parametrize(
    ("settings", "field", "cure"),
    [
        ({"ttl": 0.5}, "lock_ttl", "between 1 and 604800"),
        ({"ttl": 8 * 86400}, "lock_ttl", "between 1 and 604800"),
        ({"ttl": "30"}, "lock_ttl", "a number of seconds"),
        ({"ttl": True}, "lock_ttl", "a number of seconds"),
        ({"ttl": math.nan}, "lock_ttl", "a number of seconds"),
        ({"ttl": math.inf}, "lock_ttl", "a number of seconds"),
        ({"expected_duration": 30}, "expected_duration", "renew=False"),
        ({"expected_duration": -1, "renew": False}, "expected_duration", "between"),
        ({"max_run_time": 0}, "max_run_time", "between"),
        ({"hold_at_least": -1}, "hold_at_least", "between 0"),
        ({"renew": "no"}, "renew", "True or False"),
        ({"on_lease_lost": "explode"}, "on_lease_lost", "'stop', 'raise', 'warn'"),
        ({"on_redis_down": "skip"}, "on_redis_down", "'fail', 'postgres'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], field: str, cure: str) -> None:
    with pytest.raises(InvalidSetting, match=cure) as refused:
        LeaseSettings(**settings)
    assert refused.value.field == field
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


@given(st.floats(0.001, MAX_TTL / 3))
def test_a_fixed_lease_always_has_a_ttl_that_would_be_accepted(expected: float) -> None:
    seconds = LeaseSettings(renew=False, expected_duration=expected).seconds
    assert LeaseSettings(ttl=min(seconds, MAX_TTL)).seconds == pytest.approx(seconds)
