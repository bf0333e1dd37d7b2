"""Retention: forgetting what is old, a little at a time: few locks, so that jobs go on meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_exclusive.core.errors import StoreMisconfigured
from airflow_exclusive.stores.postgres.database import Database

BATCH = 5000

_OF_KIND: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "status": {"purge_runs": {"job_name": "", "fencing_token": 0}, "purge_refusals": {"id": 0}},
    "effects": {"purge_effects": {"job_name": "", "run_key": "", "generation": 0, "step": ""}},
}
"""Kind of table -> its statements, and the key from which each begins."""


def purge(database: Database, kind: str, before: datetime, *, batch: int = BATCH) -> dict[str, int]:
    """Delete what is older than `before` and give the rows deleted by each statement. `kind` as in `schema.upgrade`."""
    params = {"before": before, "batch": batch}
    return {
        name.removeprefix("purge_"): (_forget_runs if name == "purge_runs" else _repeat)(database, name, start, params)
        for name, start in _OF_KIND[kind].items()
    }


def _forget_runs(database: Database, name: str, start: Mapping[str, Any], params: Mapping[str, Any]) -> int:
    try:
        return _repeat(database, f"{name}_and_marks", start, params)
    except StoreMisconfigured:  # the marks are in another database, or are none of this role's business
        return _repeat(database, name, start, params)


def _repeat(database: Database, name: str, start: Mapping[str, Any], params: Mapping[str, Any]) -> int:
    """Batch after batch, each from the last key of the one before: none reads again what the others left."""
    deleted, key = 0, dict(start)
    while rows := database.run(name, {**params, **key}):
        key = rows[0]
        deleted += key.pop("deleted")
    return deleted
