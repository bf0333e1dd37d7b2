"""What comes while something is being closed waits for its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

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


def test_each_signal_is_told_in_turn_though_the_handler_before_it_raises() -> None:
    numbers = [signal.SIGTERM, signal.SIGALRM, signal.SIGHUP]
    with ExitStack() as handled:
        for number in numbers:
            handled.enter_context(raising(number))
        with pytest.raises(Told) as last, undisturbed():
            for number in numbers:
                signal.raise_signal(number)
    told: list[int] = []
    error: BaseException | None = last.value
    while error is not None:
        told.append(error.args[0])
        error = error.__context__
    assert told == [signal.SIGHUP, signal.SIGALRM, signal.SIGTERM]
