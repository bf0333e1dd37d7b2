"""The processes that a job started: found by the owner in their environment, which exec'ed children inherit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def started_by(owner: str) -> Iterator[psutil.Process]:
    """Every process of this machine that has `EXCLUSIVE_OWNER=<owner>` in its environment, but the caller."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("EXCLUSIVE_OWNER") == owner:
                yield process


def end_started(owner: str, *, within: float) -> None:
    """Let those processes end by themselves for `within` seconds (they have been asked to), then kill them."""
    import psutil

    _, alive = psutil.wait_procs(list(started_by(owner)), timeout=within)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
