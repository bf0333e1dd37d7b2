"""`python -m deploy.embedded up|status|down`: the stack in the background."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table

from deploy.embedded.process import NotReadyError
from deploy.embedded.stack import STATE_FOLDER, Stack
from deploy.embedded.state import InUseError, exclusive_use

console = Console(highlight=False)


@click.group()
def main() -> None:
    """PostgreSQL, Valkey and Airflow on this machine, in the background."""


@main.command()
def up() -> None:
    """Start the stack and return; it stays up."""
    with exclusive_use(STATE_FOLDER):
        stack = Stack()
        if stack.attach():
            console.print("It is up already.")
        else:
            stack.stop()  # what an interrupted start may have left
            with console.status("Starting …") as progress:
                stack = Stack(say=lambda what: progress.update(f"Starting {what} …")).start()
    _introduce(stack)


@main.command()
def status() -> None:
    """Say what runs. Exit status 1 unless everything does."""
    stack = Stack()
    complete = stack.attach()
    if not stack.daemons:
        console.print("Nothing is up. Start it with [bold]make up[/].")
        sys.exit(1)
    table = Table("process", "pid", "log", box=None)
    for name, daemon in stack.daemons.items():
        table.add_row(name, str(daemon.pid) if daemon.alive else "[red]not running[/]", str(daemon.log))
    console.print(table)
    if complete:
        _introduce(stack)
    else:
        console.print("[red]Not everything runs.[/] [bold]make up[/] starts it again.")
        sys.exit(1)


@main.command()
@click.option("--delete", is_flag=True, help="Delete its data as well.")
def down(delete: bool) -> None:
    """Stop the stack."""
    with exclusive_use(STATE_FOLDER):
        stack = Stack()
        stack.attach()
        with console.status("Stopping …"):
            if delete:
                stack.remove()
            else:
                stack.stop()
    console.print("Stopped, and its data deleted." if delete else "Stopped; its data is kept.")


def _introduce(stack: Stack) -> None:
    console.print(f"Airflow: [bold]{stack.ui_url}[/]")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("status tables", stack.status_dsn)
    table.add_row("sample effects", stack.warehouse_dsn)
    table.add_row("locks", stack.redis_url)
    table.add_row("logs", str(stack.airflow.home / "logs"))
    console.print(table)
    console.print(
        "There are no passwords: whoever can reach this machine's loopback address is an admin of all of it.",
        style="yellow",
    )


if __name__ == "__main__":
    try:
        main(prog_name="python -m deploy.embedded")
    except (InUseError, NotReadyError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        sys.exit(1)
