"""A TCP proxy in front of Redis, Postgres or an API that loses, repeats and delays what a test picks.

    proxy = Proxy(RedisProtocol(), "127.0.0.1", 6379)
    fault = proxy.arm(script("acquire"), REPLY_LOST)
    ...
    assert fault.hit.wait(5)

It reads their protocols just so far that it knows where a request begins and its reply ends: a lost reply is one whose
request has had its whole effect.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import jwt

from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA, statement
from airflow_exclusive.stores.redis.scripts import lua

REQUEST_LOST = "request lost"
REPLY_LOST = "reply lost"
DUPLICATED = "duplicated"
SLOW = "slow"
HANGING = "hanging"
UNHEARD = "unheard"
"""The request has its whole effect, but neither an answer nor an end of the connection ever arrives."""
HELD = "held"
"""The request goes on when the test says so, by `Fault.go_on`."""
COPIED = "copied"
"""Like nothing at all, but the request is kept, as one that hangs is: `Proxy.send_copies` sends it, long after."""

FOR_EVER = sys.maxsize
"""So many times."""

FAULTS = (REQUEST_LOST, REPLY_LOST, DUPLICATED, SLOW)

_Address = tuple[str, int]
_HELD_AT_MOST = 60.0


class WireProtocol(Protocol):
    def requests(self, data: bytes, first: bool) -> list[bytes]:
        """The whole requests at the beginning of `data`; `first`: nothing but greetings went before."""
        ...

    def text(self, request: bytes) -> bytes:
        """What a test recognises it by."""
        ...

    def reply(self, data: bytes) -> int:
        """Length of the reply at the beginning of `data`, 0 while it isn't whole."""
        ...

    def is_greeting(self, request: bytes) -> bool:
        """Whether a new connection has to send it, too, before anything else is understood."""
        ...


class RedisProtocol:
    """RESP 2 and 3. The text of a request is its words, one a line."""

    def requests(self, data: bytes, first: bool) -> list[bytes]:
        found = []
        while end := self.reply(data):
            found.append(data[:end])
            data = data[end:]
        return found

    def text(self, request: bytes) -> bytes:
        return b"\n".join(self._words(request))

    def reply(self, data: bytes) -> int:
        try:
            return self._end(data, 0)
        except (IndexError, ValueError):
            return 0

    def is_greeting(self, request: bytes) -> bool:
        return self._words(request)[0].upper() in (b"HELLO", b"AUTH", b"SELECT", b"CLIENT")

    def _end(self, data: bytes, start: int) -> int:
        line = data.index(b"\r\n", start) + 2
        kind, rest = data[start : start + 1], data[start + 1 : line - 2]
        if kind in b"$=!":
            end = line + (int(rest) + 2 if int(rest) >= 0 else 0)
            if end > len(data):
                raise IndexError("not whole")
            return end
        if kind in b"*~>%|":
            for _ in range(max(0, int(rest)) * (2 if kind in b"%|" else 1)):
                line = self._end(data, line)
        return line

    @staticmethod
    def _words(request: bytes) -> list[bytes]:
        words, at = [], request.index(b"\r\n") + 2
        while at < len(request):
            line = request.index(b"\r\n", at)
            length = int(request[at + 1 : line])
            words.append(request[line + 2 : line + 2 + length])
            at = line + length + 4
        return words


class PostgresProtocol:
    """Version 3. The text of a request is its first statement."""

    _ENDS = b"QSXpFcfd"

    def requests(self, data: bytes, first: bool) -> list[bytes]:
        found, start, at = [], 0, 0
        while len(data) - at >= 5:
            if first and data[at] == 0:  # start-up messages have no type
                at += int.from_bytes(data[at : at + 4], "big")
                ends = True
            else:
                ends = data[at] in self._ENDS
                at += 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if at > len(data):
                break
            if ends:
                found.append(data[start:at])
                start = at
        return found

    def text(self, request: bytes) -> bytes:
        if request[:1] == b"Q":
            return request[5:-1]
        if request[:1] == b"P":
            return request[5:].split(b"\0", 2)[1]
        return b""

    def reply(self, data: bytes) -> int:
        at = 0
        while len(data) - at >= 5:
            kind, end = data[at : at + 1], at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > len(data):
                return 0
            if kind == b"Z":
                return end
            at = end
        return 0

    def is_greeting(self, request: bytes) -> bool:
        return request[4:6] == b"\0\3"  # a request for TLS isn't one


class HttpProtocol:
    """HTTP/1.1, bodies with a Content-Length. The text of a request is all of it."""

    _LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

    def requests(self, data: bytes, first: bool) -> list[bytes]:
        found = []
        while end := self.reply(data):
            found.append(data[:end])
            data = data[end:]
        return found

    def text(self, request: bytes) -> bytes:
        return request

    def reply(self, data: bytes) -> int:
        head, blank, _ = data.partition(b"\r\n\r\n")
        length = self._LENGTH.search(head)
        end = len(head) + len(blank) + (int(length[1]) if length else 0)
        return end if blank and end <= len(data) else 0

    def is_greeting(self, request: bytes) -> bool:
        return False


Matches = Callable[[bytes], bool]


def script(name: str, *, by_keeper: bool = False) -> Matches:
    """A call of `lua/<name>.lua`: the job's client names it by its digest, the keeper sends its text."""
    text = lua(name).encode()
    start = b"EVAL\n" + text if by_keeper else b"EVALSHA\n" + hashlib.sha1(text).hexdigest().encode()
    return lambda request: request.startswith(start)


def sql(name: str) -> Matches:
    """`sql/<name>.sql`, by all that comes before its first parameter."""
    start = statement(name, DEFAULT_SCHEMA).split("%(")[0].encode()
    return lambda request: request.startswith(start)


def words(start: str) -> Matches:
    return lambda request: request.startswith(start.encode())


def by_task(task_instance_id: str) -> Matches:
    """Whatever this try of a task asks of Airflow's API server, which it shows its token."""

    def matches(request: bytes) -> bool:
        token = re.search(rb"\r\nauthorization: Bearer ([^\r]+)", request, re.IGNORECASE)
        return token is not None and _subject(token[1].decode()) == task_instance_id

    return matches


def _subject(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["sub"])


@dataclass
class Fault:
    """Happens to each of the requests `nth` to `nth + times - 1` that match, counted from its arming."""

    matches: Matches
    kind: str
    nth: int = 1
    times: int = 1
    seconds: float = 1.0
    hit: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    seen: int = 0
    copies: list[list[bytes]] = field(default_factory=list)

    def lift(self) -> None:
        """It happens no more, and what it holds goes on."""
        self.times = 0
        self.go_on.set()


class Proxy:
    """Listens on a free port of loopback until `close`."""

    def __init__(self, protocol: WireProtocol, host: str, port: int) -> None:
        self._protocol = protocol
        self.lead_to(host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, host: str, port: int) -> None:
        """From now on new connections lead there, as when a name is given to another machine."""
        self._server = (host, port)

    def arm(self, matches: Matches, kind: str, *, nth: int = 1, times: int = 1, seconds: float = 1.0) -> Fault:
        fault = Fault(matches, kind, nth, times, seconds)
        with self._lock:
            self._faults.append(fault)
        return fault

    def send_copies(self, fault: Fault) -> int:
        """Send what the fault has kept, each over a connection of its own, and wait for the replies."""
        for requests in fault.copies:
            with socket.create_connection(self._server, timeout=10) as connection:
                for request in requests:
                    connection.sendall(request)
                    self._read_reply(connection)
        return len(fault.copies)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _shut(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            _Connection(self, self._protocol, client, server)

    def fault_for(self, text: bytes) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.matches(text):
                    fault.seen += 1
                    if fault.nth <= fault.seen < fault.nth + fault.times:
                        return fault
        return None

    def forget(self, *connections: socket.socket) -> None:
        for connection in connections:
            _shut(connection)
        with self._lock:
            self._open -= set(connections)

    def _read_reply(self, connection: socket.socket) -> None:
        data = b""
        while not self._protocol.reply(data):
            chunk = connection.recv(65536)
            assert chunk, "the server hung up on a copied request"
            data += chunk


class _Connection:
    """One client's connection, with a thread for each direction."""

    def __init__(self, proxy: Proxy, protocol: WireProtocol, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._protocol, self._client, self._server = proxy, protocol, client, server
        self._greetings: list[bytes] = []
        self._awaited: Fault | None = None
        for direction in (self._forward, self._answer):
            threading.Thread(target=self._run, args=[direction], daemon=True).start()

    def _run(self, direction: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            direction()
        self._proxy.forget(self._client, self._server)

    def _forward(self) -> None:
        rest = b""
        for chunk in _chunks(self._client):
            rest += chunk
            for request in self._protocol.requests(rest, first=not self._greetings):
                rest = rest[len(request) :]
                if self._protocol.is_greeting(request):
                    self._greetings.append(request)
                fault = self._proxy.fault_for(self._protocol.text(request))
                if fault is not None and not self._befall(fault, request):
                    return
                self._server.sendall(request)

    def _befall(self, fault: Fault, request: bytes) -> bool:
        """What happens before the request is forwarded; False: it isn't."""
        if fault.kind == REQUEST_LOST:
            fault.hit.set()
            return False
        if fault.kind == HANGING:
            fault.copies.append([*self._greetings, request])
            fault.hit.set()
            for _ in _chunks(self._client):
                pass
            return False
        if fault.kind == HELD:
            fault.hit.set()
            return fault.go_on.wait(_HELD_AT_MOST)
        if fault.kind == COPIED:
            fault.copies.append([*self._greetings, request])
            fault.hit.set()
            return True
        self._awaited = fault
        if fault.kind == DUPLICATED:
            self._server.sendall(request)
        return True

    def _answer(self) -> None:
        held = b""
        for chunk in _chunks(self._server):
            fault = self._awaited
            if fault is None:
                self._client.sendall(chunk)
                continue
            held += chunk
            end = self._protocol.reply(held)
            if not end:
                continue
            fault.hit.set()
            if fault.kind == REPLY_LOST:
                return
            if fault.kind == UNHEARD:
                for _ in _chunks(self._server):
                    pass
                return
            if fault.kind == SLOW:
                time.sleep(fault.seconds)
            self._awaited = None
            self._client.sendall(held if fault.kind == SLOW else held[end:])  # of a duplicate the second answer counts
            held = b""


def _chunks(connection: socket.socket) -> Iterator[bytes]:
    while chunk := connection.recv(65536):
        yield chunk


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
