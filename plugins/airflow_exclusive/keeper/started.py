"""The processes that a job started, wherever they are now.

Programs are found by the owner in their environment, which they inherit. A plain fork has no environment of its own to
look into, but a copy of its parent's memory: it is found by the page that the job shares with its keeper. It inherits
that whatever files it closes and whoever its parent is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_exclusive.core.environment import OWNER
from airflow_exclusive.node import clock, process_stat

if TYPE_CHECKING:
    import psutil

_LOOK_EVERY = 0.02
KEEP = "from airflow_exclusive.keeper.process import main; main()"
"""What a keeper's process runs."""


def started_by(owner: str) -> Iterator[psutil.Process]:
    """Every program of this machine that has this owner in `EXCLUSIVE_OWNER` of its environment, but the caller."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and owner in process.environ().get(OWNER, "").split():
                yield process


def sharing(page: str) -> Iterator[psutil.Process]:
    """Every process that has the file of this name in its memory, as the caller has, but keepers and the caller.

    None where /proc doesn't tell.
    """
    import psutil

    # With its name: a segment of shared memory, of a database say, may have the same device and inode.
    own = {file for file in _mapped_files("self") if file[1] == os.fsencode(page)}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            shares = process.pid != os.getpid() and any(file in own for file in _mapped_files(str(process.pid)))
            if shares and not keeps(process):
                yield process


def forked_since(moment: float) -> Iterator[psutil.Process]:
    """The caller's descendants that began after `moment` on the node's clock, but keepers. None without /proc."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):
            if _began_at(process.pid) >= moment and not keeps(process):
                yield process


def kill_family(page: str) -> None:
    """SIGKILL the caller's descendants, and its forks wherever they are now, but no keepers."""
    finds: list[Callable[[], Iterator[psutil.Process]]] = [lambda: forked_since(0.0), lambda: sharing(page)]
    for find in finds:
        with suppress(Exception):  # without /proc psutil fails as it likes
            for process in find():
                with suppress(Exception):  # it ended by itself
                    process.kill()


def end_started(owner: str, *, page: str = "", since: float = float("inf"), within: float) -> None:
    """Ask to end those programs, and what the caller has forked since; kill who works on after `within` seconds.

    page: by it also forks are found whose parent, a fork itself, has died.

    Whoever is ended may have begun something in answer, and a script whose step is ended begins the next one: they are
    looked for until there are none.
    """
    import psutil

    def found() -> set[psutil.Process]:
        seen: set[psutil.Process] = set()
        finds: list[Callable[[], Iterator[psutil.Process]]] = [
            lambda: started_by(owner),
            lambda: forked_since(since),
            lambda: sharing(page),
        ]
        for find in finds:
            with suppress(Exception):  # without /proc psutil fails as it likes
                seen.update(process for process in find() if works(process))
        return seen

    asked = found()
    for process in asked:
        with suppress(psutil.Error):
            process.terminate()
    still_working(asked, within)
    give_up_at = time.monotonic() + within
    while (left := found()) and time.monotonic() < give_up_at:
        for process in left:
            with suppress(psutil.Error):  # it ended by itself
                process.kill()
        still_working(left, give_up_at - time.monotonic())


def still_working(processes: Iterable[psutil.Process], within: float) -> list[psutil.Process]:
    """Those that haven't ended after `within` seconds. A zombie has: it only waits to be counted."""
    give_up_at = time.monotonic() + within
    left = [process for process in processes if works(process)]
    while left and time.monotonic() < give_up_at:
        time.sleep(_LOOK_EVERY)
        left = [process for process in left if works(process)]
    return left


def began() -> float:
    """Now, for `forked_since`: on the node's clock, rounded down as the kernel rounds the start of a process."""
    tick = os.sysconf("SC_CLK_TCK")
    return int(clock() * tick) / tick


def _began_at(pid: int) -> float:
    return int(process_stat(pid)[19]) / os.sysconf("SC_CLK_TCK")


def _mapped_files(pid: str) -> Iterator[tuple[tuple[bytes, bytes], bytes]]:
    """(device, inode) and name of each file that the process has in its memory. The name may be any bytes."""
    with Path(f"/proc/{pid}/maps").open("rb") as lines:
        for line in lines:
            _, _, _, device, inode, *name = line.rstrip(b"\n").split(None, 5)
            if name and inode != b"0":
                yield (device, inode), name[0]


def keeps(process: psutil.Process) -> bool:
    """Whether it is a keeper, of whatever lease: those end by themselves, when they have closed its attempt."""
    import psutil

    try:
        # Each leads a session. That is asked first: reading the arguments may have to wait for the process.
        return os.getsid(process.pid) == process.pid and any(part.endswith(KEEP) for part in process.cmdline())
    except (psutil.Error, OSError):
        return False


def works(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
