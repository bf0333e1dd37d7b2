"""What must not be left half done, when the process is told to end or its time is over in the middle of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_HELD_BACK = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""SIGALRM: Airflow's execution_timeout."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold these signals back until the block has ended: then their handlers are called, and may raise.

    Handlers run in the main thread, so in others there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[signal.Signals] = []
    handlers: dict[signal.Signals, Any] = {}
    try:
        for number in _HELD_BACK:
            # One that isn't Python's couldn't be put back, one that is ignored disturbs nobody.
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                handlers[number] = signal.signal(number, lambda caught, _: came.append(signal.Signals(caught)))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _tell(list(dict.fromkeys(came)))


def _tell(numbers: list[signal.Signals]) -> None:
    """Whatever the handler of one raises, those that came later are told."""
    if numbers:
        try:
            signal.raise_signal(numbers[0])
        finally:
            _tell(numbers[1:])
