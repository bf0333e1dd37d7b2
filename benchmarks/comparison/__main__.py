"""Measure each deployment alone, then two side by side, and write `comparison/`; 1 if guarded work was done twice."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.comparison import report
from benchmarks.comparison.cases import Bench, prepare, side_by_side
from benchmarks.comparison.columns import BOTH, COLUMNS, TITLES, Column, Sample, Samples
from deploy.embedded.release import AIRFLOW_2, AIRFLOW_3, PROJECT
from deploy.embedded.servers import Servers
from deploy.embedded.stack import FULL, MINI, Stack

FOLDER = PROJECT / "comparison"
WORK = PROJECT / ".bench" / "comparison"
_ORPHANS = {"AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30"}
IMPATIENT: Mapping[str, Mapping[str, str]] = {
    AIRFLOW_2.line: {
        **_ORPHANS,
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "30",
        "AIRFLOW__SCHEDULER__LOCAL_TASK_JOB_HEARTBEAT_SEC": "5",
    },
    AIRFLOW_3.line: {
        **_ORPHANS,
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "5",
    },
}
INTRODUCTION = (
    "Measured on {cores} cores, {memory:.0f} GB; the servers (PostgreSQL, Valkey) run beside and are not counted."
    " Medians; the 95th percentile where there are 20 samples. Guarded tasks: leases of 30 s. Airflow"
    " believes for 30 s that a silent task lives, and looks every 30 s for tasks of a scheduler that is gone (default"
    " for either: 300 s); what was killed is started again at once."
)
_IN_DETAIL = (FULL, MINI)
"""Of these it is also measured what happens when parts of them are killed: the third is like the first there."""

CASES: tuple[Callable[[Bench], Iterator[Sample]], ...] = (
    Bench.idle,
    Bench.one_task,
    Bench.due,
    Bench.short,
    Bench.long,
    Bench.waiting,
    Bench.answers,
    Bench.alerts,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make compare", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=[*TITLES],
        default=[*TITLES],
        help="columns to measure, keeping what is there of the others",
    )
    only = parser.parse_args().only
    samples = [sample for sample in report.read(FOLDER) if sample.column not in only]
    servers = Servers(WORK / "servers")  # shared by all, so that none measures their start
    servers.start("comparison")
    try:
        for sample in _measure(only):
            print(f"{_clock()}   {sample}", flush=True)
            samples.append(sample)
            report.write(samples, FOLDER, _introduction())
    finally:
        servers.stop("comparison")
        shutil.rmtree(WORK, ignore_errors=True)
    print(f"{_clock()} written: {FOLDER.relative_to(PROJECT)}/comparison.html, comparison.md, samples.csv")
    wrong = [sample for sample in samples if sample.unit == "x" and sample.value != 1 and "guarded" in sample.variant]
    for sample in wrong:
        print(f"WRONG {sample.column}, {sample}")
    return 1 if wrong else 0


def _measure(only: list[str]) -> Samples:
    for column in COLUMNS:
        if column.name in only:
            print(f"{_clock()} {column.title}", flush=True)
            yield from _alone(column)
    if BOTH in only:
        print(f"{_clock()} {TITLES[BOTH]}", flush=True)
        yield from _both()


def _alone(column: Column) -> Samples:
    with ExitStack() as cleaning:
        began = time.monotonic()
        bench = _started(column, cleaning)
        yield bench.sample("cold start, database included", "", time.monotonic() - began, "s")
        bench.stack.airflow.stop()
        began = time.monotonic()
        bench.stack.airflow.start()
        bench.stack.airflow.wait_ready()
        yield bench.sample("start again", "", time.monotonic() - began, "s")
        for case in CASES:
            yield from case(bench)
        if column.profile in _IN_DETAIL:
            yield from bench.killed()


def _both() -> Samples:
    with ExitStack() as cleaning:
        full, mini = (_started(column, cleaning) for column in COLUMNS if column.profile in (FULL, MINI))
        for bench in (full, mini):
            bench.run("one_plain")
        yield from side_by_side(full, mini, BOTH)


def _started(column: Column, cleaning: ExitStack) -> Bench:
    profile = column.profile
    stack = Stack(
        WORK,
        profile,
        dags_folder=Path(__file__).parent / "dags",
        paused_at_creation=True,
        env=IMPATIENT[profile.release.line],
    )
    cleaning.callback(stack.remove)
    stack.start()
    prepare(stack)
    return Bench(stack, WORK / "work" / profile.name)


def _introduction() -> str:
    memory = psutil.virtual_memory().total / 1e9
    return INTRODUCTION.format(cores=psutil.cpu_count(), memory=memory)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


if __name__ == "__main__":
    sys.exit(main())
