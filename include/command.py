"""`python -m include.flights load | roll-up`: the flights' jobs on a node without Airflow."""

from __future__ import annotations

import click

from airflow_exclusive import inherited_lease
from include import flights, warehouse

_dsn = click.option("--dsn", envvar="WAREHOUSE_DSN", show_envvar=True, required=True, help="Database of the flights.")


@click.group()
def main() -> None:
    """The flights of 2013."""


@main.command()
@_dsn
def load(dsn: str) -> None:
    """Bring the flights into the database, unless they are there."""
    with warehouse.from_address(dsn) as conn:
        click.echo(f"{flights.load_flights(conn)} flights loaded")


@main.command()
@_dsn
def roll_up(dsn: str) -> None:
    """Roll up the day before the tick, under the lease of `airflow-exclusive run flights_rollup … --`."""
    lease = inherited_lease()
    day = flights.day_before(lease.run_key)
    with warehouse.from_address(dsn) as conn:
        click.echo(f"{day}: {flights.roll_up(lease, conn, day)} flights")


@main.command()
@_dsn
@click.argument("tick")
def roll_up_unguarded(dsn: str, tick: str) -> None:
    """Roll up the day before TICK (such as 2013-01-02T00:00:00Z) without asking whether somebody else does."""
    day = flights.day_before(tick)
    with warehouse.from_address(dsn) as conn:
        click.echo(f"{day}: {flights.roll_up_unguarded(conn, day)} flights")
