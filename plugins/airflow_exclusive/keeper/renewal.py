"""Renewing both stores without ever blocking the keeper's own loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from airflow_exclusive.node import clock


@dataclass(frozen=True)
class Renewed:
    """The result of one renewal: `kept` None means that nobody knows (the store didn't answer)."""

    sent_at: float
    kept: bool | None
    error: str = ""


class Renewal:
    """Runs `beat` in a thread, one at a time; `done` is called in that thread with each result.

    A beat that takes longer than `patience` seconds is left behind with its connection, and a new one begun:
    `make_beat` gives a beat with a connection of its own.
    """

    def __init__(
        self, make_beat: Callable[[], Callable[[], bool]], done: Callable[[Renewed], None], patience: float
    ) -> None:
        self._make_beat, self._done, self._patience = make_beat, done, patience
        self._beat = make_beat()
        self._running: threading.Thread | None = None
        self._began = 0.0

    @property
    def busy(self) -> bool:
        return self._running is not None and self._running.is_alive() and clock() - self._began < self._patience

    def begin(self) -> None:
        """Begin a renewal, unless one is under way."""
        if self.busy:
            return
        if self._running is not None and self._running.is_alive():
            self._beat = self._make_beat()
        self._began = clock()
        self._running = threading.Thread(target=self._run, args=(self._beat, self._began), daemon=True)
        self._running.start()

    def wait(self, timeout: float) -> None:
        """Wait for the renewal under way, if there is one."""
        if self._running is not None:
            self._running.join(timeout)

    def _run(self, beat: Callable[[], bool], sent_at: float) -> None:
        try:
            self._done(Renewed(sent_at, beat()))
        except Exception as error:
            self._done(Renewed(sent_at, None, str(error) or type(error).__name__))
