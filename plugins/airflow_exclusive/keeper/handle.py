"""The job's side of the keeper: start it, ask it, replace it if it dies or hangs, stop it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from airflow_exclusive.core.admission import Claim
from airflow_exclusive.core.environment import OWNER
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.core.timing import Action, TrustWindow
from airflow_exclusive.keeper.descriptor import Descriptor
from airflow_exclusive.keeper.order import Order
from airflow_exclusive.keeper.page import Entry, Page
from airflow_exclusive.keeper.started import KEEP, end_started, kill_family
from airflow_exclusive.node import clock

log = logging.getLogger(__name__)

# The folder that holds the package goes last, as Airflow puts its plugins folder, and the working folder not at all.
# Python itself leaves that out if it is told to (PYTHONSAFEPATH).
_BOOT = f"import sys; sys.path[:1] = filter(None, sys.path[:1]); sys.path.append(sys.argv[1]); {KEEP}"
_ISOLATED = [
    flag
    for flag, is_set in (
        ("-I", sys.flags.isolated),
        ("-E", sys.flags.ignore_environment),
        ("-s", sys.flags.no_user_site),
    )
    if is_set
]
"""What the job doesn't load, its keeper doesn't either."""
_PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])
_STOP_WITHIN = 3.0
_DIES_WITHIN = 1.0
_STARTS_WITHIN = 10.0
_LAST_MOMENT = 0.05
"""Part of the ttl."""
_SILENT_AT_LAST = 0.1
"""Part of the ttl: longer than a keeper sleeps, and what is left of the lease when the job has to be dead."""
_HELD_UP = 0.5
"""Part of the ttl."""
_SHORTEST_LOOK = 0.05
_SAYING_TAKES = 0.1
_SAYINGS_AT_MOST = 5
_INIT = 1
_KILLED = 137
_HUNG_AFTER = 0.2
"""Part of the ttl: three times what a keeper sleeps at most, and early enough for another one to renew in time."""
_HUNG_AFTER_AT_LEAST = 1.0
_HUNG_AFTER_LOADING = 0.4
"""The same in the first half of a lease: to load the drivers may hold up all else that a keeper does."""


@dataclass(frozen=True)
class KeeperAddress:
    redis: str
    postgres: str
    schema: str


def start_keeper(address: KeeperAddress, claim: Claim, settings: LeaseSettings, sent_at: float) -> KeeperHandle:
    """Start a keeper for a claim that was asked for at `sent_at` (on `node.clock`). Doesn't wait until it is up."""
    attempt = claim.attempt
    order = Order(
        redis=address.redis,
        postgres=address.postgres,
        schema=address.schema,
        job_name=attempt.job_name,
        run_key=attempt.run_key,
        owner=attempt.owner,
        fencing_token=attempt.fencing_token,
        job_pid=os.getpid(),
        ttl=settings.seconds,
        renew=settings.renew,
        on_lease_lost=settings.on_lease_lost,
        must_end_at=None if settings.max_run_time is None else sent_at + settings.max_run_time,
    )
    return KeeperHandle(order, sent_at)


class KeeperHandle:
    def __init__(self, order: Order, sent_at: float) -> None:
        self._order = order
        self._page = Page.create(Entry(confirmed=sent_at))
        self._stopping = threading.Event()
        self._replacing = threading.Lock()
        self._told = False
        self._saying: list[threading.Thread] = []
        self._confirmed_before = sent_at
        try:
            self._process = self._spawn()
            self._start_watching()
        except BaseException:
            self._abandon()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def page(self) -> str:
        return self._page.name

    @property
    def trusted_for(self) -> float:
        return self._window().deadline - clock()

    @property
    def why_lost(self) -> str:
        entry = self._page.read()
        return entry.reason or f"not renewed for {clock() - entry.confirmed:.1f} s with a ttl of {self._order.ttl:g} s"

    def _window(self) -> TrustWindow:
        entry = self._page.read()
        return TrustWindow(self._order.ttl, entry.confirmed, self._order.renew, entry.lost)

    def stop(self) -> None:
        self._stopping.set()
        with self._replacing:
            process = self._process
        with suppress(OSError, subprocess.TimeoutExpired):
            if self._page.read().ready and self._orders.is_ours:
                os.write(self._orders.number, b"stop\n")
                process.wait(_STOP_WITHIN)
        self._orders.close()
        if process.poll() is None:
            process.kill()
            process.wait()
        self._page.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        if not self._page.is_ours:
            raise OSError(f"the job has closed descriptor {self._page.descriptor}, which it shares with its keeper")
        # Not marked as started by the job: the keeper ends those that are.
        environment = {key: value for key, value in os.environ.items() if key != OWNER}
        read, write = os.pipe()
        orders = Descriptor(write)
        try:
            process = subprocess.Popen(
                [sys.executable, *_ISOLATED, "-c", _BOOT, _PACKAGE_FOLDER, str(self._page.descriptor)],
                stdin=read,
                stdout=subprocess.DEVNULL,
                pass_fds=[self._page.descriptor],
                env=environment,
                start_new_session=True,  # what is sent to the job's group must not hit its keeper first
            )
            try:
                with os.fdopen(write, "wb", closefd=False) as pipe:
                    pipe.write(self._order.to_json().encode() + b"\n")
            except BaseException:
                _end(process)
                raise
        except BaseException:
            orders.close()
            raise
        finally:
            os.close(read)
        self._orders = orders
        return process

    def _abandon(self) -> None:
        """Nobody will stop this keeper: left alone it would find the attempt closed, and end its job for that."""
        self._stopping.set()
        if "_process" in self.__dict__:
            _end(self._process)
            self._orders.close()
        self._page.close()

    def _start_watching(self) -> None:
        threading.Thread(target=self._watch, name="exclusive-keeper-monitor", daemon=True).start()

    def _watch(self) -> None:
        """Replace a keeper that died, or hangs: what it knew is on the page.

        Its silence is counted in looks, not by a clock: who was held up, by C code or with the whole node, sees it late
        but has no reason to find it hung. After half a lease the count begins anew: a job that goes on then is to hear
        from the stores that it is over, rather than be ended for a silence from before.
        """
        look_every = min(max(0.2, self._order.ttl / 15), 1.0)
        turns, silent, pause, looked_at = 0, 0.0, look_every, clock()
        while not self._stopping.wait(pause):
            if clock() - looked_at > pause + _HELD_UP * self._order.ttl:
                silent = -pause
            looked_at = clock()
            with self._replacing:
                if self._stopping.is_set():
                    return
                entry = self._page.read()
                silent = silent + pause if entry.turns == turns else 0.0
                turns = entry.turns
                # A job that has to be ended here is ended in time, not at the look after that.
                pause = min(look_every, max(_SHORTEST_LOOK, self._window().next_change(clock())))
                dead = self._process.poll() is not None
                if self._order.on_lease_lost == "stop":
                    if dead or os.getpid() == _INIT:
                        self._end_job_in_time(self._window())
                    elif not entry.ready or silent >= _SILENT_AT_LAST * self._order.ttl:
                        # If the lease was lost already, the next keeper ends the job, as long as it wouldn't lapse.
                        self._end_job_in_time(replace(self._window(), lost=None), only_late=True)
                if not dead and silent < self._patience(entry):
                    continue
                if (entry.lost is not None or self.trusted_for <= 0) and self._order.on_lease_lost != "stop":
                    return
                try:
                    self._replace(entry)
                except Exception as error:  # whatever it is: without this watch nobody would end the job in time
                    self._say(logging.WARNING, f"can't start another keeper, trying again: {error}")
                    continue
                turns, silent = 0, 0.0

    def _end_job_in_time(self, window: TrustWindow, *, only_late: bool = False) -> None:
        """Where no keeper does: none could be started any more, it hangs, or its signals don't get here.

        The first process of a container gets no signal from inside that it doesn't handle, not even SIGKILL.
        only_late: the keeper may renew the lease yet.
        """
        action = window.action(clock(), only_late=only_late)
        if action is Action.KILL:
            self._end_started_soon()
            os._exit(_KILLED)
        if action is Action.STOP and os.getpid() != _INIT and not self._told:
            self._told = True
            self._say(logging.ERROR, "no keeper renews the lease any more: the job is stopped", wait=_SAYING_TAKES)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # nobody would be left for what it has started
                self._end_started_soon()
            os.kill(os.getpid(), signal.SIGTERM)

    def _end_started_soon(self) -> None:
        with suppress(Exception):  # no more than this: to look into a process may take for ever
            ending = threading.Thread(target=self._end_started, daemon=True)
            ending.start()
            ending.join(_LAST_MOMENT * self._order.ttl)

    def _end_started(self) -> None:
        kill_family(self._page.name)
        end_started(self._order.owner, page=self._page.name, within=_LAST_MOMENT * self._order.ttl / 2)

    def _patience(self, entry: Entry) -> float:
        """Seconds that a keeper may give no sign of life."""
        loads = entry.confirmed == self._confirmed_before and clock() < entry.confirmed + self._order.ttl / 2
        part = _HUNG_AFTER_LOADING if loads else _HUNG_AFTER
        return max(part * self._order.ttl, _HUNG_AFTER_AT_LEAST if entry.ready else _STARTS_WITHIN)

    def _replace(self, entry: Entry) -> None:
        old, old_orders = self._process, self._orders
        status = old.poll()
        what = "hung" if status is None else f"died with status {status}"
        old.kill()  # also one that is stopped
        with suppress(subprocess.TimeoutExpired):
            old.wait(_DIES_WITHIN)
        self._page.write(replace(entry, turns=0))
        self._confirmed_before = entry.confirmed
        self._process = self._spawn()
        old_orders.close()
        self._say(logging.WARNING, f"its keeper {what}; another one is started")

    def _say(self, level: int, text: str, *, wait: float = 0.0) -> None:
        """Log from a thread of its own, which may wait for a reader who stands still, or for whoever logs just now.

        Rather silent than with ever more threads that wait. `wait`: seconds for which it may take, if it does.
        """
        self._saying = [thread for thread in self._saying if thread.is_alive()]
        if len(self._saying) >= _SAYINGS_AT_MOST:
            return
        saying = threading.Thread(target=log.log, args=(level, "%s: %s", self._order.job_name, text), daemon=True)
        with suppress(RuntimeError):  # no thread can be started any more
            saying.start()
            self._saying.append(saying)
            saying.join(wait)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
