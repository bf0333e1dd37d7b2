"""What came out: the ledger, and both tables of sums against the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import psycopg
from rich.table import Table

from airflow_exclusive import JobGuard
from deploy.demo.ticks import JOB, Period
from include.flights import day_before

_BY_DAY = """
SELECT day, source.flights, coalesce(guarded.flights, 0), coalesce(unguarded.flights, 0)
FROM (SELECT make_date(year, month, day) AS day, count(*) AS flights FROM flights GROUP BY 1) AS source
FULL JOIN flights_by_day guarded USING (day)
FULL JOIN flights_by_day_unguarded unguarded USING (day)
"""


@dataclass
class TickAccount:
    """One tick: its day's flights in the source and in both sums, and what the ledger has of it."""

    tick: str
    day: date
    source: int = 0
    guarded: int = 0
    unguarded: int = 0
    nodes: list[str] = field(default_factory=list)
    """Of the attempts, oldest first."""
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def faults(self) -> list[str]:
        """What is wrong with it; empty when it took effect exactly once."""
        wrong = []
        if self.guarded != self.source:
            wrong.append(f"{self.day}: {self.guarded} flights counted, the source has {self.source}")
        if self.outcomes["success"] != 1:
            wrong.append(f"{self.tick}: {self.outcomes['success']} successes in the ledger instead of one")
        return wrong


@dataclass
class Account:
    period: Period
    ticks: list[TickAccount]
    strays: list[str]
    """What is in the table of sums or in the ledger and belongs to no tick."""

    @property
    def faults(self) -> list[str]:
        total = sum(one.guarded for one in self.ticks)
        flights = self.period.flights
        wrong = [] if total == flights else [f"{self.period.name} has {flights:,} flights, {total:,} were counted"]
        return [*(fault for one in self.ticks for fault in one.faults), *self.strays, *wrong]


def draw_up(warehouse: str, guard: JobGuard, period: Period) -> Account:
    """Compare everything with everything; `warehouse` is the DSN of the sums."""
    ticks = {tick: TickAccount(tick, day_before(tick)) for tick in period.ticks}
    by_day = {one.day: one for one in ticks.values()}
    strays = []
    with psycopg.connect(warehouse) as conn:
        for day, source, guarded, unguarded in conn.execute(_BY_DAY):
            if day in by_day:
                one = by_day[day]
                one.source, one.guarded, one.unguarded = source or 0, guarded, unguarded
            elif guarded:
                strays.append(f"{day}: {guarded} flights were counted, nobody asked for that day")
    for attempt in reversed(guard.history(JOB, limit=100_000)):
        if attempt.run_key in ticks:
            ticks[attempt.run_key].nodes.append(attempt.node_id.partition("/")[0])
            ticks[attempt.run_key].outcomes[attempt.outcome] += 1
        else:
            strays.append(f"{attempt.run_key}: in the ledger, nobody asked for that tick")
    for refusal in guard.refusals(JOB, limit=100_000):
        if refusal.run_key in ticks:
            ticks[refusal.run_key].refusals[refusal.reason] += 1
    return Account(period, list(ticks.values()), strays)


def by_tick(account: Account, struck: dict[str, str]) -> Table:
    """A line for each tick; `struck` has a sign for each tick that a fault has hit."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_footer=True, header_style="underline", footer_style="bold")
    totals = [
        f"{sum(one.source for one in account.ticks):,}",
        f"{sum(one.guarded for one in account.ticks):,}",
        f"{sum(one.unguarded for one in account.ticks):,}",
    ]
    counted = [
        str(sum(len(one.nodes) for one in account.ticks)),
        str(sum(one.outcomes["taken_over"] for one in account.ticks)),
        str(sum(one.refusals["busy"] + one.refusals["done"] for one in account.ticks)),
        str(sum(one.refusals["stale"] for one in account.ticks)),
    ]
    table.add_column("tick", f"{len(account.ticks)} ticks", no_wrap=True)
    for name, total in zip(("source", "guarded", "unguarded"), totals, strict=True):
        table.add_column(name, total, justify="right", no_wrap=True)
    table.add_column("ran on")
    for name, total in zip(("attempts", "takeovers", "refused", "stale"), counted, strict=True):
        table.add_column(name, total, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in account.ticks:
        table.add_row(
            one.tick.removesuffix("T00:00:00Z"),
            str(one.source),
            f"[green]{one.guarded}[/]" if one.guarded == one.source else f"[bold red]{one.guarded}[/]",
            str(one.unguarded) if one.unguarded == one.source else f"[yellow]{one.unguarded}[/]",
            ", ".join(one.nodes),
            str(len(one.nodes)),
            _count(one.outcomes["taken_over"]),
            _count(one.refusals["busy"] + one.refusals["done"]),
            _count(one.refusals["stale"]),
            struck.get(one.tick, ""),
        )
    return table


def by_month(account: Account, struck: dict[str, str]) -> Table:
    """A line for each month, for those who have not the time to read of each tick."""
    months: dict[str, list[TickAccount]] = {}
    for one in account.ticks:
        months.setdefault(f"{one.day:%Y-%m}", []).append(one)
    table = Table(box=None, padding=(0, 1, 0, 0), show_footer=True, header_style="underline", footer_style="bold")
    totals = _month("all", account.ticks)
    for number, name in enumerate(_MONTH):
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(name, totals[number], justify=justify, no_wrap=True)
    table.add_column("", no_wrap=True)
    for month, ticks in months.items():
        table.add_row(*_month(month, ticks), "".join(struck.get(one.tick, "") for one in ticks))
    return table


_MONTH = ("month", "days", "source", "guarded", "unguarded", "wrong days", "attempts", "takeovers", "refused", "stale")


def _month(name: str, ticks: Sequence[TickAccount]) -> list[str]:
    source, guarded, unguarded = (
        sum(getattr(one, column) for one in ticks) for column in ("source", "guarded", "unguarded")
    )
    days_wrong = sum(one.unguarded != one.source for one in ticks)
    return [
        name,
        str(len(ticks)),
        f"{source:,}",
        f"[green]{guarded:,}[/]"
        if not any(one.guarded != one.source for one in ticks)
        else f"[bold red]{guarded:,}[/]",
        f"{unguarded:,}" if not days_wrong else f"[yellow]{unguarded:,}[/]",
        _count(days_wrong),
        str(sum(len(one.nodes) for one in ticks)),
        _count(sum(one.outcomes["taken_over"] for one in ticks)),
        _count(sum(one.refusals["busy"] + one.refusals["done"] for one in ticks)),
        _count(sum(one.refusals["stale"] for one in ticks)),
    ]


def _count(number: int) -> str:
    return str(number) if number else "·"
