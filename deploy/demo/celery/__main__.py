"""`python -m deploy.demo.celery`: three Celery workers, and everything that may happen to them."""

from __future__ import annotations

import click

from deploy.demo.celery.faults import scenario
from deploy.demo.celery.workers import CeleryWorkers
from deploy.demo.play import perform
from deploy.demo.ticks import JANUARY, YEAR


@click.command()
@click.option(
    "--january", is_flag=True, help="January alone, instead of the whole year: no time for more than the first faults."
)
@click.option("--keep", is_flag=True, help="At the end leave everything up, to look at the UI, until Ctrl-C.")
def main(january: bool, keep: bool) -> None:
    """2013 on Celery: guarded jobs count each day once, whatever happens to workers and broker."""
    period = JANUARY if january else YEAR
    perform(lambda say: CeleryWorkers(period, period, say=say), scenario, keep=keep)


if __name__ == "__main__":
    main(prog_name="python -m deploy.demo.celery")
