"""The command line. Each command is a small function in `commands.py`; `run.py` guards any command."""

from __future__ import annotations


def main() -> None:
    from airflow_exclusive.cli.commands import cli

    cli(prog_name="airflow-exclusive")
