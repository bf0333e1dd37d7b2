"""Letting a task work on when its supervisor has died.

A task process of Airflow 3 writes its log and its output through sockets to its supervisor. When that is killed, the
task lives on, but the next line it prints raises BrokenPipeError: work that was as good as done fails over a log line.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_REQUESTS = 0
"""The descriptor over which the task asks its supervisor: left broken, so that asking fails instead of hanging."""


@contextmanager
def output_outlives_supervisor() -> Iterator[None]:
    """While the block runs: should the supervisor die, its ends of our output lead nowhere instead of breaking."""
    outlets = _outlets_to(os.getppid())
    if not outlets:
        yield
        return
    leaving, leave = os.pipe()
    watcher = threading.Thread(target=_watch, args=(os.getppid(), leaving, outlets), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.write(leave, b".")  # closing it says nothing as long as a fork has it, too
        watcher.join()
        os.close(leave)
        os.close(leaving)


def _watch(supervisor: int, leaving: int, outlets: list[int]) -> None:
    try:
        watched = os.pidfd_open(supervisor)
    except (AttributeError, OSError):
        return
    try:
        readable, _, _ = select.select([watched, leaving], [], [])
        if watched in readable:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for outlet in outlets:
                os.dup2(nowhere, outlet, inheritable=os.get_inheritable(outlet))
            os.close(nowhere)
    finally:
        os.close(watched)


def _outlets_to(supervisor: int) -> list[int]:
    """Our descriptors whose other end the supervisor made."""
    found = []
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with suppress(OSError):
                if int(name) != _REQUESTS and _made_by(supervisor, int(name)):
                    found.append(int(name))
    return found


def _made_by(pid: int, descriptor: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as peer:
        if peer.family != socket.AF_UNIX:
            return False
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return bool(struct.unpack("3i", credentials)[0] == pid)
