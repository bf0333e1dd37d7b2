"""What must not be left half done, when the process is told to end or its time is over in the middle of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

_HELD_BACK = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""SIGALRM: Airflow's execution_timeout."""
_ALSO_UNHANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that people and systems send to whomever they want to end."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold these signals back until the block has ended: then their handlers are called, and may raise.

    Handlers run in the main thread, so in others there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[signal.Signals] = []
    # A handler that isn't Python's couldn't be put back: mostly Python doesn't know it, and says SIG_DFL. One that is
    # ignored disturbs nobody. All are known before the first is replaced: who is interrupted in between puts back
    # whatever may have been.
    handlers = {number: signal.getsignal(number) for number in _HELD_BACK}
    handlers = {number: handler for number, handler in handlers.items() if _disturbs(number, handler)}
    try:
        for number in handlers:
            signal.signal(number, lambda caught, _: came.append(signal.Signals(caught)))
        yield
    finally:
        try:
            _do_all([partial(signal.signal, number, handler) for number, handler in handlers.items()])
        finally:
            _do_all([partial(signal.raise_signal, number) for number in dict.fromkeys(came)])


def _disturbs(number: signal.Signals, handler: object) -> bool:
    return callable(handler) or (handler is signal.SIG_DFL and number in _ALSO_UNHANDLED)


def _do_all(steps: Sequence[Callable[[], object]]) -> None:
    """Whatever a handler raises at one of them, the others follow."""
    if steps:
        try:
            steps[0]()
        finally:
            _do_all(steps[1:])
