"""Child processes that outlive the command which started them, found again by pid and start time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from deploy.embedded.account import Account

T = TypeVar("T")

_CLOCK_STEPS = 2.0
"""Seconds by which one process' start time may differ between two looks: it is told relative to the wall clock, which
gets set. A pid isn't given out again that soon."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Those of this process, until they are collected."""


class NotReadyError(RuntimeError):
    """A process died or stayed silent; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Daemon:
    """One process in a session of its own.

    A pid alone may belong to somebody else by now; pid and start time together name one process for ever, so nothing
    here ever signals a stranger.
    """

    name: str
    pid: int
    created: float
    """Start time of the process, seconds since the epoch as psutil reports it."""
    log: Path

    @classmethod
    def spawn(
        cls,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        account: Account | None = None,
    ) -> Daemon:
        """Start `command`, its output appended to `log`; as `account`, where one is given."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,
                **(account.popen_arguments() if account else {}),
            )
        _children[popen.pid] = popen
        return cls(name, popen.pid, psutil.Process(popen.pid).create_time(), log)

    @property
    def process(self) -> psutil.Process | None:
        """The running process, or None when it has ended."""
        child = _children.get(self.pid)
        if child is not None and child.poll() is not None:
            del _children[self.pid]
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < _CLOCK_STEPS
        except psutil.NoSuchProcess:
            return None
        # Our own child is there until we collect it. It may look like a zombie while threads of it still run.
        return process if same and (child is not None or runs(process)) else None

    @property
    def alive(self) -> bool:
        return self.process is not None

    def send(self, signum: int) -> None:
        """Signal this process alone; a process that has ended is no error."""
        process = self.process
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)

    def family(self) -> list[psutil.Process]:
        """The process, its descendants, and whoever else is in its session; nobody once it has ended.

        A session whose leader is gone can't be told from a stranger's with the same number: `marked` finds orphans.
        """
        process = self.process
        return [] if process is None else list({process, *_descendants(process), *_session(process.pid)})

    def wait(self, timeout: float) -> bool:
        """Whether the process ended within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def stop(self, signum: int = signal.SIGTERM, *, timeout: float = 20) -> None:
        """Ask by `signum`, wait up to `timeout` seconds, then kill what is left of the whole family."""
        family = self.family()
        self.send(signum)
        self.wait(timeout)
        kill_all({*family, *self.family()})
        self.wait(5)

    def kill(self) -> None:
        """SIGKILL to the whole family at once, as when the machine loses power."""
        kill_all(self.family())
        self.wait(5)

    def tail(self, lines: int = 25) -> str:
        """The last lines of the log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def wait_until(
    probe: Callable[[], T | None], *, timeout: float, what: str, daemons: Iterable[Daemon] = (), period: float = 0.05
) -> T:
    """Ask `probe` every `period` seconds until it answers something that is not None.

    Raises `NotReadyError` at once when one of `daemons` has ended, and after `timeout` seconds.
    """
    daemons = list(daemons)
    deadline = time.monotonic() + timeout
    while True:
        for daemon in daemons:
            if not daemon.alive:
                raise NotReadyError(
                    f"{daemon.name} ended while waiting for {what}; {daemon.log} ends:\n{daemon.tail()}"
                )
        answer = probe()
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            logs = "\n".join(f"{daemon.log} ends:\n{daemon.tail()}" for daemon in daemons)
            raise NotReadyError(f"{what}: not within {timeout:g} s\n{logs}".rstrip())
        time.sleep(period)


def marked(name: str, value: str) -> list[psutil.Process]:
    """Processes of ours whose environment has `name` set to `value`.

    The way to find orphans: a task whose supervisor was killed is no longer anybody's child.
    """
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(name) == value:
                found.append(process)
    return found


def kill_all(processes: Iterable[psutil.Process], *, timeout: float = 5) -> None:
    """SIGKILL each, psutil checking its start time first, and wait until none runs any more.

    A zombie doesn't run; whether and when its parent collects it is not ours to wait for.
    """
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + timeout
    while any(runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.01)


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _session(leader: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader:
                members.append(process)
    return members
