"""Retention: forgetting what is old, a little at a time."""

from __future__ import annotations

from datetime import datetime

from airflow_exclusive.stores.postgres.database import Database

BATCH = 5000

_OF_KIND = {"status": ("purge_runs", "purge_refusals"), "effects": ("purge_effects",)}


def purge(database: Database, kind: str, before: datetime, *, batch: int = BATCH) -> dict[str, int]:
    """Delete what is older than `before` and give the rows deleted by each statement. `kind` as in `schema.upgrade`."""
    return {name.removeprefix("purge_"): _repeat(database, name, before, batch) for name in _OF_KIND[kind]}


def _repeat(database: Database, name: str, before: datetime, batch: int) -> int:
    deleted = 0
    while rows := len(database.run(name, {"before": before, "batch": batch})):
        deleted += rows
    return deleted
