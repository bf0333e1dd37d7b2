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


def now(stack: Stack) -> tuple[int, float]:
    """Processes and megabytes; memory that several share is counted once (PSS)."""
    processes = marked(MARK, stack.airflow.run_mark)
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss / 1e6
    return len(processes), total


@contextmanager
def watched(stack: Stack) -> Iterator[Usage]:
    """Fills the usage in while the block runs; the servers are not counted."""
    usage, stop = Usage(), threading.Event()
    idle, began = psutil.cpu_times().idle, time.monotonic()

    def look() -> None:
        while not stop.wait(_EVERY):
            processes, megabytes = now(stack)
            usage.processes = max(usage.processes, processes)
            usage.megabytes = max(usage.megabytes, megabytes)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        elapsed = time.monotonic() - began
        usage.cpu = (psutil.cpu_count() or 1) - (psutil.cpu_times().idle - idle) / elapsed
        stop.set()
        thread.join()
