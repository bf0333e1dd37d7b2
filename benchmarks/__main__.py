"""`python -m benchmarks`: every figure on a line, and in `.bench/figures.json`; exit status 1 if one is missed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import admission, airflow_run, imports, takeover
from benchmarks.figures import Figure, save
from deploy.embedded.release import PROJECT
from deploy.embedded.stack import Stack

FOLDER = PROJECT / ".bench"


def main() -> int:
    figures = []
    # Safe against power loss like a real server: without its fsync a commit would cost nothing, and any ratio too much.
    stack = Stack(FOLDER / "stack", dags_folder=Path(__file__).parent / "dags")
    try:
        stack.start()
        for figure in _measure(stack):
            print(figure, flush=True)
            figures.append(figure)
    finally:
        stack.remove()
    save(figures, FOLDER / "figures.json")
    return 0 if all(figure.ok for figure in figures) else 1


def _measure(stack: Stack) -> Iterator[Figure]:
    yield from airflow_run.measure(stack)
    environment = stack.airflow.environment
    stack.airflow.stop()  # what follows wants the machine for itself
    yield from imports.measure(environment)
    yield from admission.measure(stack.redis_url, stack.status_dsn)
    yield from takeover.measure(stack.redis_url, stack.status_dsn)


sys.exit(main())
