"""`python -m deploy.demo`: the whole play, its progress, its account and its exit status."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import click
import httpx
import psutil
import psycopg
import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from airflow_exclusive import ExclusiveError
from deploy.demo.account import as_table, draw_up
from deploy.demo.faults import Fault, NoTraceError, scenario
from deploy.demo.stage import DEMO_FOLDER, Stage
from deploy.demo.ticks import FLIGHTS, GUARDED_DAG, TICKS, UNGUARDED_DAG
from deploy.embedded.airflow_api import FINISHED
from deploy.embedded.process import NotReadyError, wait_until
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


@click.command()
@click.option("--keep", is_flag=True, help="At the end leave everything up, to look at the UI, until Ctrl-C.")
@click.option("--verbose", is_flag=True, help="Show also what the second node was told.")
def main(keep: bool, verbose: bool) -> None:
    """January 2013 on two nodes, with four faults: guarded jobs count each day once, unguarded ones don't."""
    try:
        with exclusive_use(DEMO_FOLDER), _interruptible():
            went_wrong = Play(verbose=verbose).run(keep=keep)
    except InUseError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        console.print("\nInterrupted. Everything that was started is stopped.")
        sys.exit(_INTERRUPTED)
    sys.exit(1 if went_wrong else 0)


class Play:
    def __init__(self, *, verbose: bool) -> None:
        self.verbose = verbose
        self.began = time.monotonic()

    def run(self, *, keep: bool) -> bool:
        """From the first process to the last; whether anything went wrong."""
        wrong: list[str] = []
        with Stage(say=lambda what: self.say(f"starting {what}")) as stage:
            faults = scenario(stage)
            try:
                stage.raise_curtain()
                self._perform(stage, faults)
            except _TROUBLE as error:
                wrong.append(f"{type(error).__name__}: {error}")
            if stage.second_node is not None:
                wrong += self._settle(stage, faults, cut_short=bool(wrong))
            self._conclude(wrong, stage)
            if keep:
                console.print(f"Airflow stays up at [bold]{stage.stack.ui_url}[/] until you press Ctrl-C.")
                _wait_for_ctrl_c()
        return bool(wrong)

    def say(self, text: str) -> None:
        console.print(f"[dim]{self._seconds:4.0f} s[/] {text}", soft_wrap=True)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _perform(self, stage: Stage, faults: list[Fault]) -> None:
        for fault in faults:
            fault.checkpoint.order()
        stage.begin([fault.tick for fault in faults])
        self.say(
            f"two nodes want the 31 ticks of January 2013, {FLIGHTS:,} flights; Airflow is at {stage.stack.ui_url}"
        )
        with _progress(stage) as finished:
            for fault in faults:
                self.say(f"[bold]{fault.tick[:10]}[/] comes: {fault.title}")
                fault.strike(lambda text, day=fault.tick[:10]: self.say(f"[cyan]{day}[/] {text}"))  # type: ignore[misc]
            wait_until(
                lambda: True if finished() else None,
                timeout=150,
                what="both nodes to be through with all ticks",
                daemons=stage.stack.daemons.values(),
                period=_LOOK_EVERY,
            )
        self.say("both nodes are through")

    def _settle(self, stage: Stage, faults: list[Fault], *, cut_short: bool) -> list[str]:
        """Show what came out, and give what is wrong with it; a play that was cut short is told of already."""
        try:
            account = draw_up(stage.stack.warehouse_dsn, stage.guard)
        except _TROUBLE as error:
            return [f"no account could be drawn up: {error}"]
        signs = dict(zip("abcdefgh", faults, strict=False))
        console.print(as_table(account, {fault.tick: sign for sign, fault in signs.items()}))
        for sign, fault in signs.items():
            console.print(f"[dim]{sign}[/] {fault.title}", soft_wrap=True)
        if self.verbose:
            console.print((stage.folder / "second-node.log").read_text(), markup=False, soft_wrap=True)
        for failure in stage.second.failures:
            console.print(f"note: a command of the second node, {failure}", soft_wrap=True)
        return [] if cut_short else account.faults

    def _conclude(self, wrong: list[str], stage: Stage) -> None:
        for one in wrong:
            console.print(one, style="red", markup=False, soft_wrap=True)
        if wrong:
            console.print(f"[bold red]FAILED[/] after {self._seconds:.0f} s; logs are below {stage.folder}")
        else:
            console.print(f"[bold green]Every day was counted exactly once[/], in {self._seconds:.0f} s.")


@contextmanager
def _progress(stage: Stage) -> Iterator[Callable[[], bool]]:
    """Bars for both nodes and both jobs; gives a function that looks again and tells whether all are full."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bars = {
            name: progress.add_task(name, total=len(TICKS))
            for name in ("Airflow, guarded", "Airflow, unguarded", "second node, guarded", "second node, unguarded")
        }

        def look() -> bool:
            api = stage.stack.airflow.api
            now = [sum(run["state"] in FINISHED for run in api.dag_runs(dag)) for dag in (GUARDED_DAG, UNGUARDED_DAG)]
            now += [stage.second.done["guarded"], stage.second.done["unguarded"]]
            for bar, done in zip(bars.values(), now, strict=True):
                progress.update(bar, completed=done)
            return all(done == len(TICKS) for done in now)

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


if __name__ == "__main__":
    main(prog_name="python -m deploy.demo")
