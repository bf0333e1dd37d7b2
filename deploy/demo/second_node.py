"""The second node: a machine without Airflow whose cron wants the same ticks."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.demo.ticks import JANUARY, JOB

NAME = "second"
TTL = "6"

GUARDED = ("python", "-m", "include.flights", "roll-up")
UNGUARDED = ("python", "-m", "include.flights", "roll-up-unguarded")


class SecondNode:
    """Runs both roll-ups for one tick after the other, each in a thread; output goes to `log`.

    It waits with the ticks in `held_back` until `let_go(tick)`.
    """

    def __init__(self, environment: Mapping[str, str], log: Path, held_back: Sequence[str]) -> None:
        self._environment = {**environment, "EXCLUSIVE_NODE": NAME}
        self._log = log
        self._gates = {tick: threading.Event() for tick in held_back}
        self._ended = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.done = {"guarded": 0, "unguarded": 0}
        """How many ticks it is through with."""
        self.failures: list[str] = []
        """Commands that ended with a status that says neither "ran" nor "was done"."""
        self._threads = [
            threading.Thread(target=self._work, args=arguments, name=f"{NAME} {arguments[0]}", daemon=True)
            for arguments in (("guarded", self._guarded), ("unguarded", self._unguarded))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def let_go(self, tick: str) -> None:
        """From now on it may ask for this tick."""
        self._gates[tick].set()

    @property
    def finished(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def ask_once(self, tick: str) -> int:
        """Run the guarded command without waiting for anybody, and give its exit status."""
        return self._run(["airflow-exclusive", "run", JOB, "--run-key", tick, "--ttl", TTL, "--", *GUARDED])

    def stop(self) -> None:
        """End it at once, as when somebody pulls the plug."""
        self._ended.set()
        for gate in self._gates.values():
            gate.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)

    def _work(self, kind: str, command: Callable[[str], list[str]]) -> None:
        for tick in JANUARY.ticks:
            if kind == "guarded" and tick in self._gates:
                self._gates[tick].wait()
            if self._ended.is_set():
                return
            status = self._run(command(tick))
            if status and not self._ended.is_set():
                self.failures.append(f"{kind} {tick}: exit status {status}")
            self.done[kind] += 1

    @staticmethod
    def _guarded(tick: str) -> list[str]:
        options = ["--run-key", tick, "--ttl", TTL, "--wait", "inf"]
        return ["airflow-exclusive", "run", JOB, *options, "--", *GUARDED]

    @staticmethod
    def _unguarded(tick: str) -> list[str]:
        return [*UNGUARDED, tick]

    def _run(self, command: Sequence[str]) -> int:
        with self._log.open("ab") as output:
            with self._lock:
                if self._ended.is_set():
                    return 0
                process = subprocess.Popen(
                    command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
