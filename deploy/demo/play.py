"""A whole play: its progress, its account and its exit status."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import click
import httpx
import psutil
import psycopg
import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from airflow_exclusive import ExclusiveError
from deploy.demo.account import draw_up
from deploy.demo.fault import Fault, NoTraceError
from deploy.demo.stage import Stage
from deploy.embedded.process import NotReadyError
from deploy.embedded.state import InUseError, exclusive_use

_LOOK_EVERY = 1.0
_INTERRUPTED = 130
_TROUBLE = (
    ExclusiveError,
    NotReadyError,
    NoTraceError,
    OSError,  # and so TimeoutError
    httpx.HTTPError,
    psutil.Error,
    psycopg.Error,
    redis.RedisError,
)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

Say = Callable[[str], None]


def perform(make_stage: Callable[[Say], Stage], scenario: Callable[[Any], Sequence[Fault[Any]]], *, keep: bool) -> None:
    """Play it, and leave with the exit status that says how it went. `keep`: afterwards leave all up until Ctrl-C."""
    play = Play(make_stage, scenario)
    try:
        with exclusive_use(play.stage.folder), _interruptible():
            went_wrong = play.run(keep=keep)
    except InUseError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        console.print("\nInterrupted. Everything that was started is stopped.")
        sys.exit(_INTERRUPTED)
    sys.exit(1 if went_wrong else 0)


class Play:
    def __init__(self, make_stage: Callable[[Say], Stage], scenario: Callable[[Any], Sequence[Fault[Any]]]) -> None:
        self.began = time.monotonic()
        self.stage = make_stage(lambda what: self.say(f"starting {what}"))
        self.faults = scenario(self.stage)

    def run(self, *, keep: bool) -> bool:
        """From the first process to the last; whether anything went wrong."""
        wrong: list[str] = []
        with self.stage:
            try:
                self.stage.raise_curtain()
                self._perform()
            except _TROUBLE as error:
                wrong.append(f"{type(error).__name__}: {error}")
            if self.stage.begun:
                wrong += self._settle(cut_short=bool(wrong))
            self._conclude(wrong)
            if keep:
                console.print(f"Airflow stays up at [bold]{self.stage.stack.ui_url}[/] until you press Ctrl-C.")
                _wait_for_ctrl_c()
        return bool(wrong)

    def say(self, text: str) -> None:
        console.print(f"[dim]{self._seconds:4.0f} s[/] {text}", soft_wrap=True)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _perform(self) -> None:
        for fault in self.faults:
            fault.prepare()
        self.stage.begin([fault.tick for fault in self.faults])
        self.say(f"{self.stage.introduction}; Airflow is at {self.stage.stack.ui_url}")
        with _progress(self.stage) as look:
            for fault in self.faults:
                fault.take_turn()
                self.say(f"[bold]{fault.tick[:10]}[/] comes: {fault.title}")
                fault.strike(lambda text, day=fault.tick[:10]: self.say(f"[cyan]{day}[/] {text}"))  # type: ignore[misc]
            self._wait_for_the_end(look)
        self.say("all are through")

    def _wait_for_the_end(self, look: Callable[[], dict[str, tuple[int, int]]]) -> None:
        """However long it takes, as long as it goes on."""
        now = look()
        while any(done < total for done, total in now.values()):
            now = self.stage.until(
                lambda before=now: seen if (seen := look()) != before else None,  # type: ignore[misc]
                f"anybody to be through with one more tick than {now}",
                timeout=2 * self.stage.patience,
            )

    def _settle(self, *, cut_short: bool) -> list[str]:
        """Show what came out, and give what is wrong with it; a play that was cut short is told of already."""
        stage = self.stage
        try:
            account = draw_up(stage.stack.warehouse_dsn, stage.guard, stage.guarded.period)
        except _TROUBLE as error:
            return [f"no account could be drawn up: {error}"]
        signs = dict(zip("abcdefgh", self.faults, strict=False))
        console.print(stage.table(account, {fault.tick: sign for sign, fault in signs.items()}))
        for sign, fault in signs.items():
            console.print(f"[dim]{sign}[/] {fault.title}", soft_wrap=True)
        for note in stage.notes():
            console.print(note, markup=False, soft_wrap=True)
        return [] if cut_short else account.faults

    def _conclude(self, wrong: list[str]) -> None:
        for one in wrong:
            console.print(one, style="red", markup=False, soft_wrap=True)
        if wrong:
            console.print(f"[bold red]FAILED[/] after {self._seconds:.0f} s; logs are below {self.stage.folder}")
        else:
            console.print(f"[bold green]Every day was counted exactly once[/], in {self._seconds:.0f} s.")


@contextmanager
def _progress(stage: Stage) -> Iterator[Callable[[], dict[str, tuple[int, int]]]]:
    """A bar for everybody at work; gives a function that looks again and tells how far they are."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bars = {name: progress.add_task(name, total=total) for name, (_, total) in stage.progress().items()}

        def look() -> dict[str, tuple[int, int]]:
            now = stage.progress()
            for name, (done, _) in now.items():
                progress.update(bars[name], completed=done)
            return now

        ended = threading.Event()

        def look_now_and_then() -> None:
            while not ended.wait(_LOOK_EVERY):
                try:
                    look()
                except httpx.HTTPError:
                    continue  # the play itself meets it too, and says so

        watcher = threading.Thread(target=look_now_and_then, name="progress", daemon=True)
        watcher.start()
        try:
            yield look
        finally:
            ended.set()
            watcher.join(5)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the play in order; a second one doesn't disturb the cleaning up."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_ctrl_c() -> None:
    with suppress(KeyboardInterrupt):
        while True:
            signal.pause()
