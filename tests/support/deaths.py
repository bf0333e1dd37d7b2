"""When processes died, however late a test on a busy machine gets to know of it."""

from __future__ import annotations

import os
import select
import threading
import time


class Deaths:
    """Of these processes, which are alive now."""

    def __init__(self, *pids: int) -> None:
        self._left = [os.pidfd_open(pid) for pid in pids]
        self._last = 0.0
        self._watch = threading.Thread(target=self._wait, daemon=True)
        self._watch.start()

    def last(self, timeout: float = 45.0) -> float:
        """When the last of them died, in seconds since the epoch."""
        self._watch.join(timeout)
        assert not self._left, f"{len(self._left)} of them are still alive after {timeout:g} s"
        return self._last

    def _wait(self) -> None:
        deaths = select.poll()
        for left in self._left:
            deaths.register(left, select.POLLIN)
        while self._left:
            for dead, _ in deaths.poll():
                self._last = time.time()
                deaths.unregister(dead)
                os.close(dead)
                self._left.remove(dead)
