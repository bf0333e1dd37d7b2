"""Databases that live as long as a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from deploy.embedded.postgres import PostgresServer


class PassingDatabases:
    """Databases of one test each, on any server. One is dropped when the next is left: while a connection to it is just
    ending, the server would sleep for 0.1 s first."""

    def __init__(self) -> None:
        self._left: list[tuple[PostgresServer, str]] = []

    @contextmanager
    def made(self, server: PostgresServer, template: str | None = None) -> Iterator[str]:
        """DSN of a new one."""
        name = f"exclusive_test_{uuid.uuid4().hex[:12]}"
        yield server.create_database(name, template=template)
        self._drop_left()
        self._left.append((server, name))

    def close(self) -> None:
        with suppress(psycopg.OperationalError, FileNotFoundError):  # it may have gone with its server
            self._drop_left()

    def _drop_left(self) -> None:
        while self._left:
            server, name = self._left.pop()
            server.drop_database(name)
