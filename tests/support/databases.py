"""Databases that live as long as a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.embedded.postgres import PostgresServer


class PassingDatabases:
    """Databases of one test each. One is dropped when the next is left: while a connection to it is just ending, the
    server would sleep for 0.1 s first."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._left: list[str] = []

    @contextmanager
    def made(self, template: str | None = None) -> Iterator[str]:
        """DSN of a new one."""
        name = f"exclusive_test_{uuid.uuid4().hex[:12]}"
        yield self._server.create_database(name, template=template)
        self._left.append(name)
        self._drop(but=1)

    def close(self) -> None:
        self._drop(but=0)

    def _drop(self, *, but: int) -> None:
        while len(self._left) > but:
            self._server.drop_database(self._left.pop(0))
