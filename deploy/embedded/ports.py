"""TCP ports on loopback that nobody has."""

from __future__ import annotations

import atexit
import random
import socket
from collections.abc import Iterable
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below the range from which outgoing connections get theirs: a server that is down for a moment finds its port free.
_RANGE = range(20_000, 30_000)
# A server is slow to take the port that was chosen for it. Until this process ends, the UDP port of the same number,
# which no server wants, tells everybody else on this machine that it is given away.
_given: dict[int, socket.socket] = {}


@atexit.register
def _give_back() -> None:
    for sign in _given.values():
        sign.close()


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(preferred: Iterable[int] = (), *, kept: int | None = None) -> int:
    """The first of `preferred` that is free, or any other free port, a new one with every call.

    `kept` is a port which was given to the same server before: it has that again, if it can.
    """
    if kept is not None and (kept in _given or _give(kept)) and is_free(kept):
        return kept
    for port in [*preferred, *random.sample(_RANGE, 400)]:
        if port not in _given and is_free(port) and _give(port):
            return port
    raise RuntimeError(f"no free port on {LOOPBACK}")


def kept_port(file: Path) -> int | None:
    """What `keep_port` wrote; None where nothing was, or nothing that can be read."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def keep_port(file: Path, port: int) -> None:
    """Written whole or not at all."""
    partial = file.with_suffix(".new")
    partial.write_text(str(port))
    partial.replace(file)


def _give(port: int) -> bool:
    """Whether nobody else was given it."""
    sign = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sign.bind((LOOPBACK, port))
    except OSError:
        sign.close()
        return False
    _given[port] = sign
    return True
