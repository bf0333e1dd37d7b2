"""Docker Compose on the engine at hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.compose.env import PROJECT

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self


class EngineError(RuntimeError):
    """There is no engine, or it refused; the message says what to do or what it said."""


class Compose:
    """One project of docker-compose.yml, all profiles included; as a context manager it goes with its volumes."""

    def __init__(self, project: str, *, files: Sequence[Path], env_file: Path, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._command = [
            *_checked_program(self._env),
            *("--project-name", project, "--project-directory", str(PROJECT), "--env-file", str(env_file)),
            *(part for file in files for part in ("--file", str(file))),
            *("--profile", "*"),
        ]

    def run(self, *arguments: str, timeout: float = 60) -> str:
        """Compose's answer; raises `EngineError` with what it said when it fails."""
        return _run([*self._command, *arguments], self._env, timeout)

    def address(self, service: str, port: int) -> str:
        """`host:port` at which this machine reaches the service."""
        return self.run("port", service, str(port)).strip()

    def kill(self, container: str) -> None:
        """SIGKILL to all of one container; it isn't restarted."""
        _run(["docker", "kill", "--signal", "KILL", container], self._env, 60)

    def __enter__(self) -> Self:
        self._remove()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "5", timeout=180)


def _checked_program(env: Mapping[str, str]) -> list[str]:
    if shutil.which("docker") is None:
        raise EngineError(
            "there is no docker on the PATH; install Docker and Docker Compose, or start this where they are"
        )
    try:
        _run(["docker", "version", "--format", "{{.Server.Version}}"], env, 30)
    except EngineError as error:
        raise EngineError(f"no Docker engine answers; start it, or name it in DOCKER_HOST. {error}") from None
    if (program := compose_program(env)) is None:
        raise EngineError("Docker is there but Docker Compose isn't; install its plugin, docker-compose-plugin")
    return program


def compose_program(env: Mapping[str, str]) -> list[str] | None:
    """Docker's plugin, the one on the PATH, or that of our own environment; checking files it needs no engine."""
    for program in (["docker", "compose"], ["docker-compose"], [str(Path(sys.executable).with_name("docker-compose"))]):
        try:
            _run([*program, "version"], env, 30)
        except (EngineError, OSError):
            continue
        return program
    return None


def _run(command: Sequence[str], env: Mapping[str, str], timeout: float) -> str:
    done = subprocess.run(
        command,
        env=env,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise EngineError(f"{' '.join(command[:2])} … {command[-1]} failed:\n{tail}")
    return done.stdout
