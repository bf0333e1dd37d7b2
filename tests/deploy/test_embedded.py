"""The embedded servers are real ones: they keep their port and their data, whatever happens to their processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jwt
import psutil
import psycopg
import pytest
import redis

from deploy.embedded.account import Account, service_folder
from deploy.embedded.airflow import AirflowDeployment
from deploy.embedded.ports import free_port, is_free, keep_port, kept_port
from deploy.embedded.postgres import EmbeddedPostgres, ExternalPostgres
from deploy.embedded.process import Daemon, NotReadyError, kill_all, marked, wait_until
from deploy.embedded.release import AIRFLOW_2, AIRFLOW_3, PROJECT
from deploy.embedded.stack import Stack
from deploy.embedded.state import InUseError, State, exclusive_use
from deploy.embedded.valkey import EmbeddedValkey, ExternalRedis
from tests.support.airflow_line import AIRFLOW


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    yield server
    server.remove()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "valkey")
    yield server
    server.remove()


def write_row(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def read_row(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT answer FROM kept").fetchone()
    assert row is not None
    return int(row[0])


class TestPostgres:
    def test_is_postgresql_18_in_utc(self, postgres: EmbeddedPostgres) -> None:
        with postgres, psycopg.connect(postgres.dsn()) as connection:
            assert connection.info.server_version // 10_000 == 18
            assert connection.info.parameter_status("TimeZone") == "UTC"

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_keeps_port_and_data(self, postgres: EmbeddedPostgres, end: str) -> None:
        dsn = postgres.start().create_database("kept")
        write_row(dsn)
        first = postgres.pid

        getattr(postgres, end)()
        assert postgres.pid is None
        postgres.start()

        assert postgres.pid != first
        assert postgres.dsn("kept") == dsn
        assert read_row(dsn) == 42

    def test_kill_leaves_no_process(self, postgres: EmbeddedPostgres) -> None:
        postgres.start()
        assert postgres.daemon is not None
        family = postgres.daemon.family()
        assert len(family) > 1

        postgres.kill()

        assert not [process for process in family if process.is_running() and process.status() != "zombie"]

    def test_never_runs_as_root(self, postgres: EmbeddedPostgres) -> None:
        assert psutil.Process(postgres.start().pid).uids().effective != 0

    def test_listens_on_loopback_alone(self, postgres: EmbeddedPostgres) -> None:
        sockets = psutil.Process(postgres.start().pid).net_connections("all")
        assert {(s.family, s.laddr.ip) for s in sockets if s.status == psutil.CONN_LISTEN} == {
            (socket.AF_INET, "127.0.0.1")
        }

    def test_copies_a_template_and_drops_a_database_in_use(self, postgres: EmbeddedPostgres) -> None:
        write_row(postgres.start().create_database("template"))
        copy = postgres.create_database("copy", template="template")
        assert read_row(copy) == 42
        assert postgres.ensure_database("copy") == copy

        connection = psycopg.connect(copy)
        postgres.drop_database("copy")
        postgres.drop_database("copy")

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()

    def test_says_why_it_does_not_start(self, postgres: EmbeddedPostgres) -> None:
        postgres.start()
        postgres.stop()
        (postgres.data_folder / "PG_VERSION").write_text("9.6\n")
        with pytest.raises(NotReadyError, match="incompatible"):
            postgres.start()

    @pytest.mark.parametrize("content", ["{stranger}\n", ""])
    def test_starts_after_a_crash_though_a_stranger_has_its_pid(self, postgres: EmbeddedPostgres, content: str) -> None:
        dsn = postgres.start().create_database("kept")
        write_row(dsn)
        lock = postgres.data_folder / "postmaster.pid"
        left = lock.read_text().splitlines(keepends=True)
        postgres.kill()

        account = Account.for_service()
        with subprocess.Popen(["sleep", "600"], **(account.popen_arguments() if account else {})) as stranger:
            try:
                lock.write_text(content and content.format(stranger=stranger.pid) + "".join(left[1:]))
                postgres.start()
                assert read_row(dsn) == 42
            finally:
                stranger.kill()

    def test_never_starts_beside_another_on_its_data(self, postgres: EmbeddedPostgres) -> None:
        postgres.start()
        lock = postgres.data_folder / "postmaster.pid"
        left = lock.read_text()
        with pytest.raises(NotReadyError, match=r"postmaster\.pid"):
            EmbeddedPostgres(postgres.folder, durable=False).start()
        assert lock.read_text() == left
        assert postgres.pid == int(left.splitlines()[0])

    def test_never_starts_beside_what_is_left_of_another(self, postgres: EmbeddedPostgres) -> None:
        postgres.start()
        assert postgres.daemon is not None
        orphans = postgres.daemon.family()
        try:
            for process in orphans:
                with contextlib.suppress(psutil.NoSuchProcess):  # those of a connection come and go
                    process.suspend()  # or they would notice, and end
            postgres.daemon.send(signal.SIGKILL)
            assert postgres.daemon.wait(30)
            with pytest.raises(NotReadyError, match="shared memory"):
                postgres.start()
        finally:
            kill_all(orphans)
        assert postgres.start().pid is not None

    def test_starts_without_a_port_that_can_be_read(self, postgres: EmbeddedPostgres) -> None:
        postgres.folder.mkdir()
        (postgres.folder / "port").touch()
        assert postgres.start().pid is not None

    def test_makes_half_made_data_again(self, postgres: EmbeddedPostgres) -> None:
        (postgres.data_folder.parent / "data.new" / "base").mkdir(parents=True)
        assert postgres.start().pid is not None

    def test_offers_its_programs(self, postgres: EmbeddedPostgres) -> None:
        assert os.access(postgres.pg_bin / "pg_dump", os.X_OK)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand PostgreSQL to another user")
class TestPostgresStartedByRoot:
    def test_moves_its_data_out_of_a_private_folder(self, tmp_path: Path) -> None:
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        server = EmbeddedPostgres(private / "postgres", durable=False)

        with server:
            assert private not in server.data_folder.parents
        moved = server.data_folder.parent
        server.remove()

        assert private.stat().st_mode & 0o777 == 0o700
        assert not moved.exists()

    def test_copies_programs_the_user_cannot_reach(self, postgres: EmbeddedPostgres, monkeypatch) -> None:
        installed = postgres.pg_bin
        reach = Account.can_run

        def only_copies(account: Account, program: Path) -> bool:
            return installed not in program.parents and reach(account, program)

        monkeypatch.setattr(Account, "can_run", only_copies)

        program = Path(psutil.Process(postgres.start().pid).exe())

        assert program.parent != installed
        assert service_folder(postgres.folder) in program.parents

    def test_refuses_a_folder_that_a_stranger_put_there(self, tmp_path: Path) -> None:
        folder = service_folder(tmp_path)
        try:
            os.chown(folder, 65534, 65534)
            with pytest.raises(PermissionError, match="not ours"):
                service_folder(tmp_path)
        finally:
            folder.rmdir()


class TestValkey:
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_keeps_port_and_data(self, valkey: EmbeddedValkey, end: str) -> None:
        url = valkey.start().url(3)
        with redis.Redis.from_url(url, decode_responses=True) as client:
            client.set("kept", "42")
            getattr(valkey, end)()
            assert valkey.pid is None
            valkey.start()
            assert valkey.url(3) == url
            assert client.get("kept") == "42"

    @pytest.mark.parametrize("left", [b"", b"\xff"])
    def test_starts_without_a_port_that_can_be_read(self, valkey: EmbeddedValkey, left: bytes) -> None:
        valkey.folder.mkdir()
        (valkey.folder / "port").write_bytes(left)
        assert valkey.start().pid is not None

    def test_forgets_everything_when_not_durable(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path, durable=False) as valkey, redis.Redis.from_url(valkey.url()) as client:
            client.set("kept", "42")
            valkey.stop()
            valkey.start()
            assert client.dbsize() == 0

    def test_never_evicts_a_lock(self, valkey: EmbeddedValkey) -> None:
        with redis.Redis.from_url(valkey.start().url(), decode_responses=True) as client:
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


class TestExternalServers:
    def test_postgres_keeps_the_rest_of_its_address(self) -> None:
        server = ExternalPostgres("host=db.example port=5433 user=me password=a/b dbname=mine sslmode=require")
        assert server.dsn() == "postgresql://me:a%2Fb@db.example:5433/mine?sslmode=require"
        assert server.dsn("other") == "postgresql://me:a%2Fb@db.example:5433/other?sslmode=require"

    def test_postgres_by_a_socket(self) -> None:
        assert ExternalPostgres("postgresql:///x?host=/run/pg").dsn("y") == "postgresql:///y?host=%2Frun%2Fpg"

    def test_redis_keeps_the_rest_of_its_address(self) -> None:
        assert ExternalRedis("rediss://:pw@cache.example:6380/4").url(7) == "rediss://:pw@cache.example:6380/7"

    def test_work_like_the_embedded_ones(self, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
        external = ExternalPostgres(postgres.start().dsn())
        write_row(external.create_database("made"))
        assert read_row(postgres.dsn("made")) == 42
        external.drop_database("made")
        assert ExternalRedis(valkey.start().url()).databases == valkey.databases


class TestProcesses:
    def test_a_recycled_pid_is_nobody_we_know(self, tmp_path: Path) -> None:
        stranger = Daemon.spawn("stranger", ["sleep", "60"], log=tmp_path / "log")
        ours = Daemon("ours", stranger.pid, stranger.created - 3600, tmp_path / "log")

        ours.stop(timeout=0)
        ours.kill()

        assert not ours.alive
        assert stranger.alive
        stranger.kill()
        assert not stranger.alive

    def test_orphans_are_found_by_their_mark(self, tmp_path: Path) -> None:
        parent = Daemon.spawn(
            "parent",
            ["sh", "-c", "setsid sleep 60 & wait"],
            log=tmp_path / "log",
            env={"MARK": "x", "PATH": os.defpath},
        )
        try:
            wait_until(lambda: len(marked("MARK", "x")) == 2 or None, timeout=5, what="the child")
            psutil.Process(parent.pid).kill()
            assert parent.wait(5)
            (orphan,) = marked("MARK", "x")
        finally:
            for process in marked("MARK", "x"):
                process.kill()
        assert orphan.pid != parent.pid

    def test_a_death_ends_the_wait_with_the_log(self, tmp_path: Path) -> None:
        daemon = Daemon.spawn("short", ["sh", "-c", "echo because; exit 3"], log=tmp_path / "log")
        with pytest.raises(NotReadyError, match=r"(?s)short ended.*because"):
            wait_until(lambda: None, timeout=30, what="nothing", daemons=[daemon])


class TestState:
    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "state.json"
        assert State.load(path) is None
        one = Daemon("one", 12, 34.5, tmp_path / "one.log")
        state = State("mark", True, {"one": one}, api_port=8080, users=frozenset({"full"}))
        state.save(path)
        assert State.load(path) == state

    def test_two_commands_exclude_each_other(self, tmp_path: Path) -> None:
        with exclusive_use(tmp_path), pytest.raises(InUseError), exclusive_use(tmp_path):
            pytest.fail("both were let in")
        with exclusive_use(tmp_path):
            pass


class Stranger(BaseHTTPRequestHandler):
    """Another deployment in good health, which lets anybody in but knows none of our secrets."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization", "").startswith("Basic"):
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        token = jwt.encode({"sub": "admin"}, "x" * 64, algorithm="HS512")
        answer = {"access_token": token, "metadatabase": {"status": "healthy"}, "dags": [], "total_entries": 0}
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None: ...


class TestPorts:
    def test_each_is_given_once(self) -> None:
        first = free_port(range(20_000, 20_400))
        assert free_port([first]) != first

    def test_a_full_disk_takes_no_port_away(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def write_nothing(path: Path, _: str) -> None:
            path.open("w").close()
            raise OSError(errno.ENOSPC, "No space left on device")

        keep_port(tmp_path / "port", 20_001)
        monkeypatch.setattr(Path, "write_text", write_nothing)
        with pytest.raises(OSError, match="No space left"):
            keep_port(tmp_path / "port", 20_002)
        assert kept_port(tmp_path / "port") == 20_001

    def test_a_port_given_in_another_process_is_not_free_before_its_server_listens(self) -> None:
        script = "from deploy.embedded.ports import free_port; print(free_port(), flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            port = int(other.stdout.readline())
            assert is_free(port)
            assert free_port([port]) != port
            assert free_port(kept=port) != port
            other.communicate("\n")
        assert free_port(kept=port) == port
        assert free_port(kept=port) == port, "whoever has it may keep it"


class TestDeployment:
    def test_a_strangers_airflow_is_not_taken_for_ours(self, tmp_path: Path) -> None:
        with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
            threading.Thread(target=stranger.serve_forever, daemon=True).start()
            deployment = AirflowDeployment(
                tmp_path,
                name="ours",
                metadata_dsn="postgresql://nowhere/",
                dags_folder=tmp_path,
                plugins_folder=tmp_path,
                api_port=stranger.server_port,
                release=AIRFLOW.release,
            )
            with pytest.raises(NotReadyError, match="Airflow: not within 1 s"):
                deployment.wait_ready(timeout=1)
            deployment.api.close()
            stranger.shutdown()

    def test_what_a_crash_left_of_a_component_is_forgotten_with_its_next_start(self, tmp_path: Path) -> None:
        deployment = AirflowDeployment(
            tmp_path,
            name="ours",
            metadata_dsn="postgresql://nowhere/",
            dags_folder=tmp_path,
            plugins_folder=tmp_path,
            release=AIRFLOW_2,
            python=Path("/bin/true"),
        )
        for left in ("webserver", "webserver-monitor", "scheduler"):
            (tmp_path / f"airflow-{left}.pid").write_text(f"{os.getpid()}\n")
        deployment.start("webserver")
        deployment.stop()
        deployment.api.close()
        assert [file.name for file in tmp_path.glob("*.pid")] == ["airflow-scheduler.pid"]

    def test_the_interpreter_is_one_that_has_the_release(self) -> None:
        assert AIRFLOW.release.python == Path(sys.executable)
        other = AIRFLOW_3 if AIRFLOW.release is AIRFLOW_2 else AIRFLOW_2
        python = PROJECT / other.environment / "bin" / "python"
        if python.exists():
            assert other.python == python
        else:
            with pytest.raises(NotReadyError, match="make venv"):
                assert other.python


class TestFixtures:
    def test_each_database_has_the_tables_and_nothing_else(self, database: str) -> None:
        with psycopg.connect(database) as connection:
            found = connection.execute("SELECT to_regclass(%s)", ["scheduled_job_status"]).fetchone()
            schemas = connection.execute(
                "SELECT table_schema FROM information_schema.tables WHERE table_name = 'scheduled_job_status'"
            ).fetchall()
        assert found is not None
        assert len(schemas) == 1

    @pytest.mark.parametrize("turn", [1, 2])
    def test_each_redis_database_is_empty(self, redis_client: redis.Redis, turn: int) -> None:
        assert redis_client.dbsize() == 0
        redis_client.set("left behind", turn)


class TestStack:
    def test_everything_runs_and_another_process_finds_it(self, airflow_stack: Stack) -> None:
        found = Stack(airflow_stack.folder, airflow_stack.profile)
        assert found.attach()
        assert {name: daemon.pid for name, daemon in found.daemons.items()} == {
            name: daemon.pid for name, daemon in airflow_stack.daemons.items()
        }
        assert {"PostgreSQL", "Valkey", *AIRFLOW.tested.components} == set(found.daemons)
        assert found.ui_url == airflow_stack.ui_url

    def test_a_killed_component_is_noticed_and_comes_back(self, airflow_stack: Stack) -> None:
        airflow = airflow_stack.airflow
        *_, component = AIRFLOW.tested.components
        before = airflow.pids[component]

        airflow.kill(component, family=True)
        assert component not in airflow.pids
        with pytest.raises(NotReadyError, match=f"{component} ended"):
            airflow.wait_ready(timeout=5)
        airflow.start(component)
        airflow.wait_ready()

        assert airflow.pids[component] != before

    def test_secrets_are_for_the_owner_alone(self, airflow_stack: Stack) -> None:
        assert (airflow_stack.airflow.home / "secrets.json").stat().st_mode & 0o077 == 0

    def test_connections_reach_the_servers(self, airflow_stack: Stack) -> None:
        done = airflow_stack.airflow.cli("connections", "get", "exclusive_postgres", "--output", "json")
        assert str(airflow_stack.postgres.port) in done.stdout
