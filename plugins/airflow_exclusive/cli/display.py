"""Tables for people, JSON for programs: the same fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from airflow_exclusive.core.admission import Attempt
from airflow_exclusive.core.findings import Finding
from airflow_exclusive.core.ports import JobStatus, Refusal


def show_status(rows: Sequence[JobStatus], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    _print_table(
        ("job", "status", "last run", "tick", "attempt", "token", "node", "lease until"),
        (
            (
                row.job_name,
                f"{row.status} (lapsed)" if row.lapsed else row.status,
                row.last_run_at,
                row.run_key,
                row.attempt,
                row.fencing_token,
                row.node_id,
                row.lease_expires_at,
            )
            for row in rows
        ),
    )


def show_history(attempts: Sequence[Attempt], as_json: bool) -> None:
    if as_json:
        _print_json(attempts)
        return
    _print_table(
        ("tick", "gen", "attempt", "token", "outcome", "started", "finished", "node", "from", "error"),
        (
            (
                one.run_key,
                one.generation,
                one.attempt,
                one.fencing_token,
                one.outcome,
                one.started_at,
                one.finished_at,
                one.node_id,
                one.source,
                one.error,
            )
            for one in attempts
        ),
    )


def show_refusals(refusals: Sequence[Refusal], as_json: bool) -> None:
    if as_json:
        _print_json(refusals)
        return
    _print_table(
        ("tick", "reason", "when", "node", "detail"),
        ((one.run_key, one.reason, one.refused_at, one.node_id, one.detail) for one in refusals),
    )


def show_findings(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        _print_json(findings)
        return
    _print_table(("", "about", "found", "cure"), ((one.level, one.subject, one.text, one.cure) for one in findings))


def show_applied(schema: str, applied: Sequence[str], as_json: bool) -> None:
    """The migrations that `init` has applied now."""
    if as_json:
        _print({"schema": schema, "applied": applied})
    else:
        print(f"schema {schema}: applied {', '.join(applied)}" if applied else f"schema {schema}: up to date")


def show_deleted(deleted: Mapping[str, int], as_json: bool) -> None:
    """How many rows of each kind `purge` has deleted."""
    if as_json:
        _print(deleted)
    else:
        print(", ".join(f"{name}: {count} deleted" for name, count in deleted.items()))


def _print_json(rows: Sequence[Any]) -> None:
    _print([asdict(row) for row in rows])


def _print(value: object) -> None:
    print(json.dumps(value, default=_text, indent=2))


def _print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # on a narrow terminal: two ticks cut off may look the same
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # other programs read it then: nothing may be cut off
    console.print(table)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
