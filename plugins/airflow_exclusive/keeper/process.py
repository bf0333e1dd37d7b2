"""The keeper's process: renew, watch the job, and end it before the lease can lapse."""

from __future__ import annotations

import math
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from typing import Any, NoReturn

from airflow_exclusive.core.timing import Action, TrustWindow
from airflow_exclusive.keeper.kept_lock import KeptLock
from airflow_exclusive.keeper.order import Order
from airflow_exclusive.keeper.page import Page
from airflow_exclusive.keeper.renewal import Renewal, Renewed
from airflow_exclusive.keeper.watched_job import WatchedJob
from airflow_exclusive.node import clock
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.statements import statement

_LOAD_AT = 1 / 6
"""Of the ttl: drivers take half a second of a processor, more on a busy node. A job that is done by then needs none."""
_LOOK_EVERY = 0.25
_ASK_AT = 1 / 3
"""Of the ttl: so often a fixed lease, which no renewal is refused for, is asked for,"""
_ASK_EVERY_AT_MOST = 10.0
"""and at least every so many seconds."""
_STOP_WAITS = 1.0
_CLOSE_WITHIN = 1.0


def main() -> NoReturn:
    _fill_standard_error()
    page = Page(int(sys.argv[2]))
    order = Order.from_json(_first_line(sys.stdin.fileno()))
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the keeper ends with its job, not before
    KeeperProcess(order, page, WatchedJob(order.job_pid, order.owner, page.name)).run()
    os._exit(0)  # without waiting for a thread that hangs in a dead connection


class KeeperProcess:
    def __init__(self, order: Order, page: Page, job: WatchedJob) -> None:
        self.order, self.page, self.job = order, page, job
        self._entry = page.read()
        self.window = TrustWindow(order.ttl, self._entry.confirmed, order.renew, self._entry.lost)
        self._results: queue.SimpleQueue[Renewed] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        self._retry_at = 0.0
        self._ask_every = math.inf if order.renew else min(_ASK_AT * order.ttl, _ASK_EVERY_AT_MOST)
        self._ask_at = clock() + self._ask_every
        self._patience = min(order.ttl / 4, self._ask_every)
        self._excuse = ""
        self._terminated = False
        self._orders_open = True
        self._stop_told = False
        self._loads = False
        self._truth = Renewal(self._make_truth_beat, self._post, patience=self._patience)
        self._gate = Renewal(self._make_gate_beat, lambda _: None, patience=self._patience)

    def run(self) -> None:
        while True:
            self._write(turns=self._entry.turns + 1)
            self._sleep()
            if self._told_to_stop():
                self._gate.wait(_STOP_WAITS)  # a renewal that came after the release would lock the job again
                return
            if self.job.dead:
                self._close_for_dead_job(self._cause_of_death())
                return
            self._take_results()
            if self._time_left() <= 0 and self.window.lost is None:
                self._lose("the job is past its max_run_time")
            if not self._act(self.window.action(clock(), only_late=not self._excuse)):
                return

    def _act(self, action: Action) -> bool:
        """Do what is due; False when there is nothing left to keep."""
        if action is Action.RENEW:
            self._renew()
            return True
        if action is Action.WAIT:
            if not self._loads and self.order.renew and self._age() > _LOAD_AT * self.order.ttl:
                self._loads = True
                threading.Thread(target=self._load, daemon=True).start()
            if clock() >= self._ask_at:
                self._ask_at = clock() + self._ask_every
                self._truth.begin()
            return True
        if self.window.lost is None:
            self._lose(f"{self._excuse or self._default_excuse()}; last confirmed {self._age():.1f} s ago")
        if self.order.on_lease_lost != "stop":
            return False
        if action is Action.KILL:
            self.job.strike()
            self._say(f"killed the job (pid {self.job.pid}): it hadn't stopped")
            self._close_for_dead_job(f"killed by its keeper: {self._entry.reason}")
            return False
        if not self._terminated:
            self._terminated = True
            self.job.terminate()
            self._say(f"stopping the job (pid {self.job.pid}), SIGKILL in {self.window.kill_at - clock():.1f} s")
        return True

    def _time_left(self) -> float:
        """Of its max_run_time, in seconds."""
        return math.inf if self.order.must_end_at is None else self.order.must_end_at - clock()

    def _renew(self) -> None:
        now = clock()
        if self.job.stopped:
            self._excuse = "the job's process is stopped"
        elif now >= self._retry_at:
            self._retry_at = now + self.window.retry_every
            self._truth.begin()

    def _load(self) -> None:
        """Load what the first renewal needs, before it is due. What fails here fails there again, and is told."""
        with suppress(Exception):
            import airflow_exclusive.stores.postgres.connection  # noqa: F401

            statement("renew", self.order.schema)
            self._kept_lock().load()

    def _take_results(self) -> None:
        while not self._results.empty():
            result = self._results.get()
            if self.window.lost is not None:
                continue  # too late: the job has been told
            if result.kept is not False and not self.order.renew:
                continue  # nothing prolongs a fixed lease, and it needs no answer
            if result.kept:
                if self._excuse:
                    self._say("the lease is renewed again")
                self._excuse = ""
                self.window = replace(self.window, confirmed=max(self.window.confirmed, result.sent_at))
                self._write(confirmed=self.window.confirmed)
                self._gate.begin()
            elif result.kept is False:
                if not self._told_to_stop():
                    self._lose("Postgres says that the attempt isn't the running one any more (taken over or released)")
            elif self._excuse != result.error:
                self._excuse = result.error
                self._say(f"a renewal failed, trying again: {result.error}")

    def _lose(self, reason: str) -> None:
        self.window = replace(self.window, lost=clock())
        self._ask_at = math.inf  # it has been answered
        self._write(lost=self.window.lost, reason=reason)
        self._say(f"the lease is lost: {reason}")

    def _write(self, **changes: Any) -> None:
        self._entry = replace(self._entry, **changes)
        self.page.write(self._entry)

    def _cause_of_death(self) -> str:
        if self.window.lost is not None:
            return f"stopped by its keeper: {self._entry.reason}"
        return "the job's process died without finishing (killed, out of memory or crashed)"

    def _close_for_dead_job(self, error: str) -> None:
        """End what is left of the job, then let the next one in without waiting. Harmless if one is in already."""
        if not self.job.kill(within=self.order.ttl):
            self._say("something of the job doesn't die: the lease is left to lapse")
            return
        retry_for = max(_CLOSE_WITHIN, self.window.kill_at - clock())
        try:
            database = Database(
                self.order.postgres, schema=self.order.schema, retry_for=retry_for, answer_within=self._whole_patience
            )
            told = {"outcome": "failed", "error": error, "result": None, "hold_at_least": 0.0}
            database.run("finish", {**self._identity(), **told})
            self._gate.wait(_STOP_WAITS)  # a renewal that came after the release would lock the job again
            self._kept_lock().release()
            self._say(error)
        except Exception as failed:  # e.g. its drivers can't be loaded
            self._say(f"{error}; it is taken over when its lease lapses ({failed})")

    def _make_truth_beat(self) -> Callable[[], bool]:
        @cache
        def database() -> Database:  # made by who needs it: that loads the driver
            return Database(
                self.order.postgres, schema=self.order.schema, retry_for=0.0, connect_timeout=self._whole_patience
            )

        if not self.order.renew:
            # Given up in time, or ever more of those left behind would wait for a server that says nothing.
            within = self._whole_patience
            return lambda: bool(database().run("held", self._identity(), answer_within=within))
        return lambda: bool(database().run("renew", {**self._identity(), "ttl": self.order.ttl}))

    def _make_gate_beat(self) -> Callable[[], bool]:
        lock = self._kept_lock()
        return lambda: lock.renew(self.order.ttl)

    def _kept_lock(self) -> KeptLock:
        return KeptLock(self.order.redis, self.order.job_name, self.order.owner, timeout=self._whole_patience)

    @property
    def _whole_patience(self) -> int:
        return max(2, round(self._patience))

    def _identity(self) -> dict[str, object]:
        order = self.order
        return {"job_name": order.job_name, "owner": order.owner, "fencing_token": order.fencing_token, "now": None}

    def _post(self, result: Renewed) -> None:
        self._results.put(result)
        os.write(self._wake_write, b".")

    def _sleep(self) -> None:
        watched = [self._wake_read]
        if self._orders_open:
            watched.append(sys.stdin.fileno())
        if self.job.descriptor is not None:
            watched.append(self.job.descriptor)
        look_again = (
            self.window.retry_every if self.job.descriptor is not None else min(_LOOK_EVERY, self.window.retry_every)
        )
        change = self.window.next_change(clock())
        if self.window.lost is None:
            change = min(change, self._time_left())
        pause = min(look_again, max(0.005, min(change, self._ask_at - clock())))
        readable, _, _ = select.select(watched, [], [], pause)
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)

    def _told_to_stop(self) -> bool:
        if self._orders_open and select.select([sys.stdin.fileno()], [], [], 0)[0]:
            if os.read(sys.stdin.fileno(), 64):
                self._stop_told = True
            else:
                self._orders_open = False  # end of file alone says nothing: a fork of the job may hold the pipe, or not
        return self._stop_told

    def _default_excuse(self) -> str:
        return "its fixed time is over" if not self.order.renew else "no renewal was answered"

    def _age(self) -> float:
        return clock() - self.window.confirmed

    def _say(self, text: str) -> None:
        stamp = datetime.fromtimestamp(time.time(), tz=timezone.utc).strftime("%H:%M:%S")
        name = f"{self.order.job_name} {self.order.run_key} token {self.order.fencing_token}"
        with suppress(OSError, ValueError):
            if select.select([], [2], [], 0)[1]:  # rather silent than held up by a reader who stands still
                os.write(2, f"{stamp} keeper of {name}: {text}\n".encode())


def _fill_standard_error() -> None:
    """Where the job has none, the next file or connection would become number 2, and get what the keeper says."""
    try:
        os.fstat(2)
    except OSError:
        os.open(os.devnull, os.O_WRONLY)


def _first_line(descriptor: int) -> str:
    """Unbuffered, so that what follows the line is still there for `select`."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            os._exit(0)  # the job was gone before it said what to keep
        line += byte
    return line.decode()
