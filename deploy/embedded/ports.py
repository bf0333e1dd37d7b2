"""TCP ports on loopback that nobody has."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

LOOPBACK = "127.0.0.1"
# Below the range from which outgoing connections get theirs: a server that is down for a moment finds its port free.
_RANGE = range(20_000, 30_000)
_given: set[int] = set()


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(preferred: Iterable[int] = ()) -> int:
    """The first of `preferred` that is free, or any other free port, a new one with every call."""
    picks = [port for port in random.sample(_RANGE, 400) if port not in _given]
    for port in [*preferred, *picks]:
        if is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port on {LOOPBACK}")
