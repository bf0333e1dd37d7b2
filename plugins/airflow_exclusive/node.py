"""Who this node is, and its clock."""

from __future__ import annotations

import os
import socket
import time
from functools import cache
from pathlib import Path

# CLOCK_BOOTTIME goes on while the machine is suspended: a laptop that slept must not believe in its lease.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def clock() -> float:
    """Seconds on a clock that never jumps, is shared by all processes of the node and also runs during suspend."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def node_id() -> str:
    """Host, boot and process start: unlike host and pid alone it never comes again, not after a reboot either.

    Set `EXCLUSIVE_NODE` to name the node yourself; boot and process are still added.
    """
    return _node_id(os.getpid())


@cache
def _node_id(pid: int) -> str:
    host = os.environ.get("EXCLUSIVE_NODE") or socket.gethostname()
    return f"{host}/{_boot()}/{pid}-{_process_start(pid)}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return format(int(time.time() - time.monotonic()), "x")


def _process_start(pid: int) -> str:
    """Start time in clock ticks since boot: with the pid it names one process for as long as the node is up."""
    try:
        return process_stat(pid)[19].decode()
    except (OSError, IndexError):
        return format(time.time_ns(), "x")


def process_stat(pid: int) -> list[bytes]:
    """What Linux tells of a process after its name, from its state on. The name may be any bytes."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
