"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: float = 10.0, *, every: float = 0.02) -> T:
    """The first truthy answer of `predicate`; fails when there is none within `timeout` seconds."""
    give_up_at = time.monotonic() + timeout
    while not (answer := predicate()):
        assert time.monotonic() < give_up_at, f"still {answer!r} after {timeout:g} s"
        time.sleep(every)
    return answer


def stays(predicate: Callable[[], object], seconds: float, *, every: float = 0.05) -> bool:
    """Whether `predicate` holds for the whole time; False as soon as it doesn't."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not predicate():
            return False
        time.sleep(every)
    return True
