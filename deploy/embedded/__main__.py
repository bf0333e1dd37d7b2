"""`python -m deploy.embedded up|status|down [--mini]`: a stack in the background."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table

from deploy.embedded.process import NotReadyError
from deploy.embedded.stack import FULL, MINI, STATE_FOLDER, Stack
from deploy.embedded.state import InUseError, exclusive_use

console = Console(highlight=False)
mini_option = click.option("--mini", is_flag=True, help="The mini deployment.")


@click.group()
def main() -> None:
    """PostgreSQL, Valkey and Airflow on this machine, in the background."""


@main.command()
@mini_option
def up(mini: bool) -> None:
    """Start the stack and return; it stays up."""
    with exclusive_use(_stack(mini).home):
        stack = _stack(mini)
        if stack.attach():
            console.print("It is up already.")
        else:
            stack.stop()  # what an interrupted start may have left
            with console.status("Starting …") as progress:
                stack = _stack(mini, say=lambda what: progress.update(f"Starting {what} …")).start()
    _introduce(stack)


@main.command()
@mini_option
def status(mini: bool) -> None:
    """Say what runs. Exit status 1 unless everything does."""
    stack = _stack(mini)
    complete = stack.attach()
    if not stack.daemons:
        console.print(f"Nothing is up. Start it with [bold]make {_target(mini)}[/].")
        sys.exit(1)
    table = Table("process", "pid", "log", box=None)
    for name, daemon in stack.daemons.items():
        table.add_row(name, str(daemon.pid) if daemon.alive else "[red]not running[/]", str(daemon.log))
    console.print(table)
    if complete:
        _introduce(stack)
    else:
        console.print(f"[red]Not everything runs.[/] [bold]make {_target(mini)}[/] starts it again.")
        sys.exit(1)


@main.command()
@mini_option
@click.option("--delete", is_flag=True, help="Delete its data as well.")
def down(mini: bool, delete: bool) -> None:
    """Stop the stack."""
    with exclusive_use(_stack(mini).home):
        stack = _stack(mini)
        stack.attach()
        with console.status("Stopping …"):
            if delete:
                stack.remove()
            else:
                stack.stop()
    console.print("Stopped, and its data deleted." if delete else "Stopped; its data is kept.")
    others = ", ".join(sorted(stack.servers.users - {stack.profile.name}))
    if others:
        console.print(f"PostgreSQL and Valkey stay up for the other deployment ({others}).")


def _stack(mini: bool, say: Callable[[str], None] = lambda _: None) -> Stack:
    return Stack(STATE_FOLDER, MINI if mini else FULL, say=say)


def _target(mini: bool) -> str:
    return "up-mini" if mini else "up"


def _introduce(stack: Stack) -> None:
    console.print(f"Airflow: [bold]{stack.ui_url}[/]")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    if stack.airflow.login is not None:
        table.add_row("user, password", " ".join(stack.airflow.login))
    table.add_row("status tables", stack.status_dsn)
    table.add_row("sample effects", stack.warehouse_dsn)
    table.add_row("locks", stack.redis_url)
    table.add_row("logs", str(stack.airflow.home / "logs"))
    console.print(table)
    console.print(
        "The servers have no passwords: whoever can reach this machine's loopback address is an admin of all of it.",
        style="yellow",
    )


if __name__ == "__main__":
    try:
        main(prog_name="python -m deploy.embedded")
    except (InUseError, NotReadyError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        sys.exit(1)
