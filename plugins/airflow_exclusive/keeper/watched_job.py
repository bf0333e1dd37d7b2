"""The job as its keeper sees it: alive, stopped or dead, and how to end it with all that it started."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_exclusive.keeper.started import keeps, sharing, started_by, still_working, works
from airflow_exclusive.node import process_stat

if TYPE_CHECKING:
    import psutil

_LOOK_EVERY = 0.02


class WatchedJob:
    """The process that started this one.

    What the job started is known by `owner`, in its environment, or by `page`, the name of a file in its memory.
    """

    def __init__(self, pid: int, owner: str, page: str) -> None:
        self.pid, self._owner, self._page = pid, owner, page
        self.descriptor = self._open_descriptor()

    @property
    def dead(self) -> bool:
        # An orphan gets another parent. That holds without /proc, and no recycled pid can fool it.
        if os.getppid() != self.pid:
            return True
        if self.descriptor is None:
            return False
        readable, _, _ = select.select([self.descriptor], [], [], 0)
        return bool(readable)

    @property
    def stopped(self) -> bool:
        """Frozen by SIGSTOP or a debugger. Where /proc doesn't tell, False."""
        try:
            return process_stat(self.pid)[0] in (b"T", b"t")
        except (OSError, IndexError):
            return False

    def terminate(self) -> None:
        """Ask the job to end; it is the one who knows how to end what it started."""
        self._send(signal.SIGTERM)
        _load_psutil()  # it may have to be killed

    def strike(self) -> None:
        """SIGKILL the job and its descendants but keepers, without waiting for their end.

        It is stopped for so long that they can be found, and no longer: nobody would wake it if this process were
        killed meanwhile, and what it holds in a database would stay locked.
        """
        _load_psutil()
        self._send(signal.SIGSTOP)
        found: set[psutil.Process] = set()
        with suppress(Exception):  # without /proc psutil fails as it likes
            while new := {process for process in self._children() if process.pid != os.getpid()} - found:
                _kill(new)  # at once: who begins one after the other would never be through
                found |= new
        self._send(signal.SIGKILL)

    def kill(self, *, within: float) -> bool:
        """End the job and everything it started, without asking; whether all of it is gone after `within` seconds.

        A process in an uninterruptible system call dies only after it: until then it may still write.
        """
        give_up_at = time.monotonic() + within
        self.strike()  # it is not to work on while all are looked for that it has started
        while True:
            victims = {process for process in self._started() if works(process)}
            if self.dead and not victims:  # nor has any of them begun another one before it was killed
                return True
            self._send(signal.SIGKILL)
            _kill(victims)
            if still_working(victims, give_up_at - time.monotonic()) or time.monotonic() > give_up_at:
                return False
            if not self.dead:
                time.sleep(_LOOK_EVERY)

    def _send(self, number: signal.Signals) -> None:
        if not self.dead:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _started(self) -> Iterator[psutil.Process]:
        for find in (self._children, lambda: started_by(self._owner), lambda: sharing(self._page)):
            with suppress(Exception):  # without /proc psutil fails as it likes; then the job alone can be ended
                yield from (process for process in find() if process.pid not in (self.pid, os.getpid()))

    def _children(self) -> Iterator[psutil.Process]:
        import psutil

        if not self.dead:
            # One that keeps another lease of the job, or of what the job started, has to close its attempt yet.
            yield from (child for child in psutil.Process(self.pid).children(recursive=True) if not keeps(child))

    def _open_descriptor(self) -> int | None:
        """Readable once the process has ended (Linux 5.3+): tells at once, where asking for the parent is polling."""
        try:
            return os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            return None


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(Exception):  # it ended by itself, or has become somebody else's
            process.kill()


def _load_psutil() -> None:
    """It takes longer than all the rest, the first time."""
    with suppress(Exception):
        import psutil  # noqa: F401
