"""The processes that a job started: found by the owner in their environment, which exec'ed children inherit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_LOOK_EVERY = 0.02


def started_by(owner: str) -> Iterator[psutil.Process]:
    """Every process of this machine that has `EXCLUSIVE_OWNER=<owner>` in its environment, but the caller."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("EXCLUSIVE_OWNER") == owner:
                yield process


def end_started(owner: str, *, within: float) -> None:
    """Let those processes end by themselves for `within` seconds (they have been asked to), then kill them."""
    for process in still_working(started_by(owner), within):
        with suppress(Exception):  # it ended by itself
            process.kill()


def still_working(processes: Iterable[psutil.Process], within: float) -> list[psutil.Process]:
    """Those that haven't ended after `within` seconds. A zombie has: it only waits to be counted."""
    give_up_at = time.monotonic() + within
    left = [process for process in processes if _works(process)]
    while left and time.monotonic() < give_up_at:
        time.sleep(_LOOK_EVERY)
        left = [process for process in left if _works(process)]
    return left


def _works(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
