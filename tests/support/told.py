"""Being told to stop, as Airflow tells a task: a signal whose handler raises."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

_WAITS = 10.0


class Told(BaseException):
    """What the handler raises."""


@contextmanager
def told_to_stop(when: Callable[[float], object]) -> Iterator[None]:
    """This process gets SIGTERM as soon as `when`, given the seconds to wait at most, says that it is time."""

    def stop(*_: object) -> None:
        raise Told

    before = signal.signal(signal.SIGTERM, stop)
    killer = threading.Thread(target=lambda: when(_WAITS) and os.kill(os.getpid(), signal.SIGTERM))
    killer.start()
    try:
        with pytest.raises(Told):
            yield
    finally:
        killer.join()
        signal.signal(signal.SIGTERM, before)
