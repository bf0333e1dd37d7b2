"""Processes, memory and CPU time of everything that belongs to a deployment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from deploy.embedded.airflow import MARK
from deploy.embedded.process import marked
from deploy.embedded.stack import Stack

_EVERY = 1.0


@dataclass
class Usage:
    """processes and megabytes at their highest; cpu: cores kept busy, on average."""

    processes: int = 0
    megabytes: float = 0.0
    cpu: float = 0.0


def now(*stacks: Stack) -> tuple[int, float, float]:
    """Processes, megabytes (memory that several share is counted once: PSS), seconds of CPU that they have had."""
    processes = [process for stack in stacks for process in marked(MARK, stack.airflow.run_mark)]
    megabytes = seconds = 0.0
    for process in processes:
        with suppress(psutil.Error):
            megabytes += process.memory_full_info().pss / 1e6
            # with those of its children that have ended: tasks come and go
            seconds += sum(process.cpu_times()[:4])
    return len(processes), megabytes, seconds


@contextmanager
def watched(*stacks: Stack) -> Iterator[Usage]:
    """Fills the usage in while the block runs; the servers are not counted."""
    usage, stop = Usage(), threading.Event()
    *_, before = now(*stacks)
    began = time.monotonic()

    def look() -> None:
        while not stop.wait(_EVERY):
            processes, megabytes, _ = now(*stacks)
            usage.processes = max(usage.processes, processes)
            usage.megabytes = max(usage.megabytes, megabytes)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        *_, after = now(*stacks)
        usage.cpu = (after - before) / (time.monotonic() - began)
        stop.set()
        thread.join()
