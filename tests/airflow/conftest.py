"""Guarded tasks without stores."""

from __future__ import annotations

import pytest

from airflow_exclusive.airflow import connections, listener
from tests.support.fakes import World, world


@pytest.fixture
def admitting(monkeypatch: pytest.MonkeyPatch) -> World:
    """The task's guard, without stores."""
    made = world()
    made.guard.close = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr(connections, "open_guard", lambda *_: made.guard)
    monkeypatch.setattr(listener, "_waiting", [])  # nobody will confirm its successes
    return made
