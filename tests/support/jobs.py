"""The test's side of `tests.support.job`: start jobs, tell them what to do, and leave none of them behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from contextlib import suppress
from typing import Any

import psutil

from tests.support import children
from tests.support.ledger import JOB, TICK
from tests.support.waiting import eventually


def alive(pid: int) -> bool:
    """Whether the process runs or is stopped; a zombie doesn't."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class JobProcess:
    """One job; `keeper` is its first keeper's pid."""

    def __init__(
        self,
        redis: str,
        postgres: str,
        job: str = JOB,
        run_key: str = TICK,
        wait: float = 0,
        stderr: int | None = None,
        **settings: Any,
    ) -> None:
        order = {"redis": redis, "postgres": postgres, "job": job, "run_key": run_key, "wait": wait}
        self.process = children.start("tests.support.job", json.dumps({**order, "settings": settings}), stderr=stderr)
        self.pid = self.process.pid
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        admitted = self._hear(20 + wait)["admitted"]
        self.token: int = admitted["token"]
        self.owner: str = admitted["owner"]
        self.keeper: int = admitted["keeper"]
        self._others = [self.keeper]

    def tell(self, command: str, *, timeout: float = 20, **arguments: Any) -> Any:
        """Have it done and give the answer, or the error as text."""
        self.send(command, **arguments)
        answer = self.answer(timeout)
        if command in ("fork", "spawn", "keeper", "hold_another"):
            self._others.append(answer)
        return answer

    def answer(self, timeout: float = 20) -> Any:
        """To the command that was sent."""
        heard = self._hear(timeout)
        return heard.get("answer", heard.get("error"))

    def send(self, command: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, arguments]) + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, timeout: float = 20) -> int:
        """Its exit status, once it has one."""
        return self.process.wait(timeout)

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self._others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reader.join(10)
        children.end(self.process)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError):
            for line in self.process.stdout:
                self._lines.put(line)

    def _hear(self, timeout: float) -> dict[str, Any]:
        try:
            heard: dict[str, Any] = json.loads(self._lines.get(timeout=timeout))
        except queue.Empty:
            status = self.process.poll()
            raise AssertionError(f"the job said nothing for {timeout:g} s (exit status {status})") from None
        return heard


def freeze(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        eventually(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED)  # type: ignore[misc]


def thaw(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
