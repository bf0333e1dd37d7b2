"""Guard any command: start it only if admitted, end it with the lease."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from types import FrameType
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from airflow_exclusive.core.admission import Admitted, AlreadyDone, Claim
from airflow_exclusive.core.errors import InvalidSetting, LeaseLost
from airflow_exclusive.core.guard import Guard
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.ports import Keeper
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.core.ticks import tick_key
from airflow_exclusive.core.timing import TrustWindow

if TYPE_CHECKING:
    from croniter import croniter

BUSY = 75
LOST = 74
_CANNOT_START = 126
_NOT_FOUND = 127
_HOUR = 1
"""The place of the hour in a cron expression."""
_BY_CHANCE = re.compile(r"(?i)(?<![a-z])[rh](?![a-z])")
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def latest_tick(cron: str, timezone_name: str, now: datetime | None = None) -> str:
    """The run_key of the last time at which `cron` was due, in the time zone."""
    from croniter import croniter

    try:
        zone = ZoneInfo(timezone_name)
    except Exception as error:
        raise InvalidSetting("--timezone", timezone_name, "must be a name such as UTC or Europe/Berlin") from error
    if _BY_CHANCE.search(cron):
        raise InvalidSetting("--cron", cron, "has a field that is drawn by chance, each time another: give it a number")
    try:
        # `get_prev` is strictly before: a microsecond later, so that a due time counts from its first moment.
        moment = (now or datetime.now(zone)).astimezone(zone).replace(microsecond=1)
        due = croniter(cron, moment).get_prev(datetime)
        if croniter(cron).expanded[_HOUR] == ["*"]:
            return tick_key(due)
        # What is due in an hour that comes twice, or in one that doesn't come, is one tick, with Airflow's name for it.
        by_the_wall = croniter(cron, moment.replace(tzinfo=None))
        skipped = _skipped(by_the_wall, zone)
        if skipped is None:
            return tick_key(due.replace(fold=1))
        while sooner := _skipped(by_the_wall, zone):
            skipped = sooner  # the first of several: Airflow has no other
        return tick_key(skipped)
    except ValueError as error:
        raise InvalidSetting("--cron", cron, f"is no cron expression ({error}); e.g. '0 2 * * *'") from error


def _skipped(by_the_wall: croniter, zone: ZoneInfo) -> datetime | None:
    """The due time before, if it is in an hour that doesn't come: then moved out of it, as Airflow does."""
    due = by_the_wall.get_prev(datetime).replace(tzinfo=zone)
    moved = due.astimezone(timezone.utc)
    return moved if moved.astimezone(zone).replace(tzinfo=None) != due.replace(tzinfo=None) else None


def run_guarded(
    guard: Guard,
    job: str,
    command: Sequence[str],
    *,
    run_key: str | None,
    wait: float,
    rerun: bool,
    settings: LeaseSettings,
) -> int:
    """Ask for admission and run `command`. Gives the exit status, see `airflow-exclusive run --help`."""
    try:
        with _Signals(guard) as signals:  # until the end is recorded
            admission = guard.admit(job, run_key=run_key, wait=wait, rerun=rerun, settings=settings)
            _say(str(admission))
            if isinstance(admission, Admitted):
                return _run_and_finish(admission.lease, command, signals)
            return 0 if isinstance(admission, AlreadyDone) else BUSY
    except _Told as told:
        _say(f"told to end by {told} before it was admitted")
        return 128 + told.number


def _run_and_finish(lease: Lease, command: Sequence[str], signals: _Signals) -> int:
    try:
        status = _run(lease, command, signals)
        error = f"exit status {status}" if status else None
    except OSError as cause:
        status = _NOT_FOUND if isinstance(cause, FileNotFoundError) else _CANNOT_START
        error = f"can't start {command[0]!r}: {cause.strerror}"
        _say(error)
    why = lease.lost if _stops(lease) else None
    if why:
        error = f"the lease was lost: {why}"
    try:
        lease.finish("failed" if error else "success", error)
    except LeaseLost as lost:
        _say(str(lost))
        return LOST
    return LOST if why else status


def _run(lease: Lease, command: Sequence[str], signals: _Signals) -> int:
    process = subprocess.Popen(command, env={**os.environ, **lease.environment}, start_new_session=True)
    signals.forward_to(process, lease)
    status = process.wait()
    if lease.lost and _stops(lease):
        _kill_group(process)  # the next runner must be alone
    return 128 - status if status < 0 else status


class _Told(KeyboardInterrupt):
    """For which psycopg cancels the statement at the server: none that claims is left to be answered."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Signals:
    """Until there is a lease they end us. Then they are the command's: what comes before it has started is told to it
    when it has, what comes after its end to nobody.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard, self._keepers = guard, guard.keepers
        self._before = {number: signal.getsignal(number) for number in _FORWARDED if not _is_ignored(number)}
        self._asking = True
        self._started: tuple[subprocess.Popen[bytes], Lease] | None = None
        self._came: list[int] = []

    def __enter__(self) -> _Signals:
        self._guard.keepers = self._start_keeper
        for number in self._before:
            signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._guard.keepers = self._keepers

    def forward_to(self, process: subprocess.Popen[bytes], lease: Lease) -> None:
        self._started = process, lease
        for number in self._came:
            self._take(number)

    def _start_keeper(self, claim: Claim, settings: LeaseSettings, sent_at: float) -> Keeper:
        """The guard gives a claim back if it is told to end before this; after it the lease is on its way to us."""
        self._asking = False
        return self._keepers(claim, settings, sent_at)

    def _take(self, number: int, _: FrameType | None = None) -> None:
        if self._asking:
            if self._before[signal.Signals(number)] != signal.SIG_IGN:
                raise _Told(number)
            return
        if self._started is None:
            self._came.append(number)
            return
        process, lease = self._started
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError, PermissionError):  # of a command that became another user's, say by sudo
            os.killpg(process.pid, number)
        if lease.lost and _stops(lease):
            # The keeper kills us after the grace; the command must be gone a little sooner.
            timer = threading.Timer(_grace(lease), _kill_group, [process])
            timer.daemon = True  # once the command has ended there is nothing left to wait for
            timer.start()


def _is_ignored(number: signal.Signals) -> bool:
    """By whoever started us, for us and the command (nohup, `&` in a script). SIGTERM is the keeper's as well."""
    return number != signal.SIGTERM and signal.getsignal(number) in (signal.SIG_IGN, None)


def _stops(lease: Lease) -> bool:
    """Otherwise the command goes on without its lease, and its result counts unless somebody else has taken over."""
    return lease.settings.on_lease_lost == "stop"


def _grace(lease: Lease) -> float:
    settings = lease.settings
    return 0.75 * TrustWindow(settings.seconds, confirmed=0.0, renew=settings.renew).grace


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _say(text: str) -> None:
    """What can't be said is no reason not to run, nor for another exit status."""
    if sys.stderr is None:
        return
    try:
        print(f"airflow-exclusive: {text}", file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = None
