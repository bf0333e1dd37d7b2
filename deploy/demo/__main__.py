"""`python -m deploy.demo`: two nodes, one of them Airflow with the LocalExecutor."""

from __future__ import annotations

import click

from deploy.demo.faults import scenario
from deploy.demo.play import perform
from deploy.demo.two_nodes import TwoNodes


@click.command()
@click.option("--keep", is_flag=True, help="At the end leave everything up, to look at the UI, until Ctrl-C.")
@click.option("--verbose", is_flag=True, help="Show also what the second node was told.")
def main(keep: bool, verbose: bool) -> None:
    """January 2013 on two nodes, with four faults: guarded jobs count each day once, unguarded ones don't."""
    perform(lambda say: TwoNodes(verbose=verbose, say=say), scenario, keep=keep)


if __name__ == "__main__":
    main(prog_name="python -m deploy.demo")
