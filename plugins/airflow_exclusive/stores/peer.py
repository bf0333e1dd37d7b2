"""Which server is at an address that doesn't answer as it should: an address is soon written where another belongs."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

_WITHIN = 1.0

PING = b"PING\r\n"
"""A Redis answers it, whatever it wants to hear first; a PostgreSQL hangs up."""
TLS_REQUEST = bytes.fromhex("0000000804d2162f")
"""A PostgreSQL answers it with one letter, also behind a pooler; a Redis waits for the end of the line."""

_ANSWERS = {"Redis": re.compile(rb"[-+]"), "PostgreSQL": re.compile(rb"[SN]\Z|E\0")}


def who_answers(host: str, port: int, question: bytes) -> str:
    """The name of the server there, as far as one can tell; empty where nothing is heard. Takes a second at most."""
    answer = b""
    with suppress(OSError), socket.create_connection((host, port), timeout=_WITHIN) as peer:
        peer.settimeout(_WITHIN)
        peer.sendall(question)
        answer = peer.recv(8)
    known = [name for name, pattern in _ANSWERS.items() if pattern.match(answer)]
    return known[0] if known else "another server" if answer else ""
