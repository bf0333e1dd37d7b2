"""The command line. Each command is a small function in `commands.py`; `run.py` guards any command."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    from airflow_exclusive.cli.commands import cli

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal can't show is no reason to fail
    cli(prog_name="airflow-exclusive")
