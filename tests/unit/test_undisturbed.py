"""What comes while something is being closed waits for its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from airflow_exclusive.core import undisturbed as undisturbed_module
from airflow_exclusive.core.undisturbed import undisturbed


class Told(Exception):
    """Its argument: by which signal."""


@contextmanager
def raising(number: int) -> Iterator[None]:
    def tell(*_: object) -> None:
        raise Told(number)

    before = signal.signal(number, tell)
    try:
        yield
    finally:
        signal.signal(number, before)


def closed_while_told(number: int, closed: list[bool]) -> None:
    with undisturbed():
        signal.raise_signal(number)
        signal.raise_signal(number)
        closed.append(True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM])
def test_a_signal_is_told_at_the_end_and_once(number: int) -> None:
    closed: list[bool] = []
    with raising(number):
        with pytest.raises(Told):
            closed_while_told(number, closed)
        with pytest.raises(Told):
            signal.raise_signal(number)
    assert closed


def closed_while_told_of(numbers: list[signal.Signals]) -> None:
    with undisturbed():
        for number in numbers:
            signal.raise_signal(number)


def test_each_signal_is_told_in_turn_though_the_handler_before_it_raises() -> None:
    numbers = [signal.SIGTERM, signal.SIGALRM, signal.SIGHUP]
    with ExitStack() as handled:
        for number in numbers:
            handled.enter_context(raising(number))
        with pytest.raises(Told) as last:
            closed_while_told_of(numbers)
    told: list[int] = []
    error: BaseException | None = last.value
    while error is not None:
        told.append(error.args[0])
        error = error.__context__
    assert told == [signal.SIGHUP, signal.SIGALRM, signal.SIGTERM]


_TOLD = """
import faulthandler, signal, sys
from airflow_exclusive.core.undisturbed import undisturbed

number = signal.{name}
{handled}
with undisturbed():
    signal.raise_signal(number)
    print("closed", file=sys.stderr, flush=True)
signal.raise_signal(number)
"""


def told_in_a_process_of_its_own(name: str, handled: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(path for path in sys.path if path)
    program = [sys.executable, "-c", _TOLD.format(name=name, handled=handled)]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(program, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGALRM"])
def test_what_c_code_does_at_a_signal_it_goes_on_to_do(name: str) -> None:
    """Python knows nothing of it. Put back as it has it, the signal would end the process from then on."""
    done = told_in_a_process_of_its_own(name, "faulthandler.register(number)")
    assert done.returncode == 0
    at_once, afterwards = done.stderr.split("closed")
    assert "most recent call first" in at_once
    assert "most recent call first" in afterwards


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_who_is_ended_by_a_signal_that_it_does_not_handle_has_closed_first(name: str) -> None:
    done = told_in_a_process_of_its_own(name, "signal.signal(number, signal.SIG_DFL)")
    assert (done.returncode, done.stderr) == (-signal.Signals[name], "closed\n")


def closed_undisturbed() -> None:
    with undisturbed():
        pass


@pytest.mark.parametrize("when", range(1, 9))
def test_who_is_told_between_two_handlers_finds_all_put_back(when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a handler of this module's would stay, and the process hear of that signal no more.

    when: at the how-manieth setting of a handler, of which there are four at the beginning and four at the end.
    """
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM]
    monkeypatch.setattr(undisturbed_module, "_HELD_BACK", numbers)
    with ExitStack() as handled:
        for number in numbers:
            handled.enter_context(raising(number))
        before = [signal.getsignal(number) for number in numbers]
        set_handler, settings = signal.signal, iter(range(1, 100))

        def told_meanwhile(number: int, handler: Any) -> Any:
            replaced = set_handler(number, handler)
            if next(settings) == when:
                raise Told(number)
            return replaced

        monkeypatch.setattr(signal, "signal", told_meanwhile)
        with pytest.raises(Told):
            closed_undisturbed()
        monkeypatch.setattr(signal, "signal", set_handler)
        assert [signal.getsignal(number) for number in numbers] == before
