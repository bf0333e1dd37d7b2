"""A PostgreSQL whose disk can be full.

Who may mount (root, but not root in a container) gets a real one: a small tmpfs below the server's data. Elsewhere the
server's files can be kept from growing, which it reports in nearly the same words.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import psycopg

from deploy.embedded.account import Account
from tests.support.servers import OddPostgres

_SIZE = 160 << 20
_CHUNK = 1 << 20
_LARGER_THAN_THE_LOG = 20 << 20  # its segments have 16 MB: it must be able to write in those that it has

_COPY = """
INSERT INTO exclusive.scheduled_job_run
    (job_name, run_key, generation, attempt, fencing_token, owner, node_id, outcome, started_at, lease_seconds, renewed)
SELECT 'ballast', 'tick', 1, n, n, gen_random_uuid()::text, repeat('n', 50), 'failed', now(), 30, true
FROM generate_series(%(first)s::bigint, %(last)s) n
"""


class SmallDisk:
    """A server on a disk of its own."""

    def __init__(self, folder: Path) -> None:
        # Space that is free within its files shall stay as it is.
        self.server = OddPostgres(folder / "postgres", {"autovacuum": "off"})
        self._mounted: Path | None = None
        self._rows = 0

    def start(self) -> SmallDisk:
        place = self.server.data_folder.parent
        if os.geteuid() == 0 and self._mount(place):
            self._mounted = place
        self.server.start()
        return self

    def remove(self) -> None:
        self.server.stop()
        if self._mounted is not None:
            subprocess.run(["umount", self._mounted], check=True)
        self.server.remove()

    def fill(self, dsn: str) -> None:
        """From now on the table of runs can't take another row, and nothing else can grow either."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            if self._mounted is not None:
                self._fill_up(self._mounted / "ballast")
            else:
                self._add_rows(connection, 150_000)
                (size,) = connection.execute("SELECT pg_relation_size('exclusive.scheduled_job_run')").fetchone() or [0]
                assert size > _LARGER_THAN_THE_LOG
                self._limit_files(str(size))
            with suppress(psycopg.Error):
                while True:
                    self._add_rows(connection, 1)

    def free(self) -> None:
        if self._mounted is not None:
            (self._mounted / "ballast").unlink()
        else:
            self._limit_files("unlimited")

    @staticmethod
    def _mount(place: Path) -> bool:
        """Whether a small disk is there now."""
        place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=711", "tmpfs", place]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _add_rows(self, connection: psycopg.Connection, count: int) -> None:
        first, self._rows = self._rows + 1, self._rows + count
        connection.execute(_COPY, {"first": first, "last": self._rows})

    @staticmethod
    def _fill_up(path: Path) -> None:
        with path.open("wb", buffering=0) as ballast, suppress(OSError):
            for size in (_CHUNK, 4096):
                with suppress(OSError):
                    while ballast.write(bytes(size)) == size:
                        pass

    def _limit_files(self, size: str) -> None:
        """As the server's own user, who always may; root in a container may not."""
        assert self.server.daemon is not None
        account = Account.for_service()
        for process in self.server.daemon.family():
            done = subprocess.run(
                ["prlimit", "--pid", str(process.pid), f"--fsize={size}:"],
                capture_output=True,
                text=True,
                check=False,
                **(account.popen_arguments() if account else {}),
            )
            assert done.returncode == 0 or not process.is_running(), done.stderr
