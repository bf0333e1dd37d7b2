"""An address at which another server is: told at once, by its field, and nothing is left behind."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

import pytest

from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.node import clock
from airflow_exclusive.stores.peer import PING, TLS_REQUEST, who_answers
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.schema import upgrade
from tests.support.ledger import JOB, TICK
from tests.support.proxied_node import Truth
from tests.support.servers import PgBouncer


@pytest.fixture
def banner() -> Iterator[str]:
    """Host and port of a server that speaks first, and not to us."""

    class Greets(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            self.request.recv(1024)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greets) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}"


@pytest.mark.parametrize("there", ["PostgreSQL", "another server"])
def test_a_redis_address_that_leads_elsewhere_is_told_at_once(
    redis_url: str, database: str, banner: str, there: str
) -> None:
    wrong = f"redis://me:secret@{place(database) if there == 'PostgreSQL' else banner}/0"
    began = clock()
    with (
        JobGuard(redis=wrong, postgres=database) as guard,
        pytest.raises(InvalidSetting, match=f"{there} answers there, and not as Redis does: give the address") as told,
    ):
        guard.admit(JOB, run_key=TICK)
    assert clock() - began < 10, "it isn't asked for as long as one that doesn't answer"
    assert (told.value.field, "secret" in str(told.value)) == ("redis", False)
    truth = Truth(redis_url, database)
    assert (truth.outcomes(), truth.lock()) == ([], None)


@pytest.mark.parametrize("there", ["Redis", "another server"])
def test_a_postgres_address_that_leads_elsewhere_is_told_at_once(
    redis_url: str, database: str, banner: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = f"postgresql://me:secret@{place(redis_url) if there == 'Redis' else banner}/exclusive"
    monkeypatch.setattr(Database.__init__, "__kwdefaults__", {**Database.__init__.__kwdefaults__, "connect_timeout": 2})
    began = clock()
    with (
        JobGuard(redis=redis_url, postgres=wrong) as guard,
        pytest.raises(InvalidSetting, match=f"{there} answers there, and not as PostgreSQL does: give the") as told,
    ):
        guard.admit(JOB, run_key=TICK)
    assert clock() - began < 10, "it isn't asked for as long as one that doesn't answer"
    assert (told.value.field, "secret" in str(told.value)) == ("postgres", False)
    truth = Truth(redis_url, database)
    assert (truth.outcomes(), truth.lock()) == ([], None)


def test_init_tells_it_too(banner: str) -> None:
    with pytest.raises(InvalidSetting, match="another server answers there"):
        upgrade(f"postgresql://{banner}/exclusive")


def test_the_servers_themselves_are_taken_for_no_others(redis_url: str, database: str, pgbouncer: PgBouncer) -> None:
    redis, postgres, pooler = (urlsplit(url) for url in (redis_url, database, pgbouncer.dsn("exclusive")))
    assert heard(redis, TLS_REQUEST) in ("", "Redis")
    for server in (postgres, pooler):
        assert heard(server, TLS_REQUEST) == "PostgreSQL"
        assert heard(server, PING) in ("", "PostgreSQL")


def heard(server: SplitResult, question: bytes) -> str:
    assert server.hostname
    assert server.port
    return who_answers(server.hostname, server.port, question)
