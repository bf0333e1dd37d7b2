"""A job that starts children of every kind: `python -m tests.support.parent_job ORDER`, with the order as JSON.

Each child leaves its pid in `<folder>/<kind>` and then works on, deaf to SIGTERM, until it is killed. The job says
`admitted` once it is, and with `hold_the_gil` how long it really did so. `beside`: another job, whose lease a thread
holds meanwhile.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import JobGuard
from tests.support.ledger import TICK

_MODULE = [sys.executable, "-m", "tests.support.parent_job", "child"]


def work(folder: str, kind: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    partial = Path(folder) / f"{kind}.new"
    partial.write_text(str(os.getpid()))
    partial.rename(Path(folder) / kind)
    while True:
        time.sleep(0.05)


def fork(folder: str) -> None:
    if os.fork() == 0:
        work(folder, "fork")


def fork_in_a_session_of_its_own(folder: str) -> None:
    if os.fork() == 0:
        os.setsid()
        work(folder, "fork_in_a_session_of_its_own")


def daemon(folder: str) -> None:
    """As the textbooks have it: forked twice, nobody's child, with none of its parent's files open."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.closerange(0, 256)
            work(folder, "daemon")
        os._exit(0)
    os.waitpid(child, 0)


def multiprocessing_fork(folder: str) -> None:
    multiprocessing.get_context("fork").Process(target=work, args=(folder, "multiprocessing_fork")).start()


def multiprocessing_spawn(folder: str) -> None:
    multiprocessing.get_context("spawn").Process(target=work, args=(folder, "multiprocessing_spawn")).start()


def program(folder: str) -> None:
    subprocess.Popen([*_MODULE, folder, "program"])


def program_left_by_a_shell(folder: str) -> None:
    command = ["setsid", "sh", "-c", '"$@" &', "sh", *_MODULE, folder, "program_left_by_a_shell"]
    subprocess.run(command, check=True)


CHILDREN: dict[str, Callable[[str], None]] = {
    start.__name__: start
    for start in (
        fork,
        fork_in_a_session_of_its_own,
        daemon,
        multiprocessing_fork,
        multiprocessing_spawn,
        program,
        program_left_by_a_shell,
    )
}


def hold_the_gil(seconds: float) -> float:
    """Stay in one C call that gives nobody else the GIL, for a while longer than `seconds`.

    Gives the longest time for which another thread really didn't get it.
    """
    gaps, done = [0.0], threading.Event()

    def measure() -> None:
        last = time.monotonic()
        while not done.wait(0.01):
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    witness = threading.Thread(target=measure)
    witness.start()
    count, took = 1_000_000, 0.0
    while took < seconds:
        # Small steps until it takes long enough to tell how long a much longer call will take.
        count = int(count * (1.3 * seconds / took if took > 0.5 else 4))
        began = time.monotonic()
        sum(range(count))
        took = time.monotonic() - began
    time.sleep(0.1)
    done.set()
    witness.join()
    return max(gaps)


def hold_in_a_thread(guard: JobGuard, job: str) -> None:
    held = threading.Event()

    def hold() -> None:
        with guard.hold(job, run_key=TICK):
            held.set()
            threading.Event().wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()


def main() -> None:
    if sys.argv[1] == "child":
        work(*sys.argv[2:])
    order: dict[str, Any] = json.loads(sys.argv[1])
    settings = LeaseSettings(**order["settings"])
    with JobGuard(redis=order["redis"], postgres=order["postgres"]) as guard:
        admission = guard.admit(order["job"], run_key=order["run_key"], settings=settings)
        assert isinstance(admission, Admitted), admission
        with admission.lease:
            if order["beside"]:
                hold_in_a_thread(guard, order["beside"])
            for kind in order["children"]:
                CHILDREN[kind](order["folder"])
            print("admitted", flush=True)
            if order["hold_the_gil"]:
                print(hold_the_gil(order["hold_the_gil"]), flush=True)
            else:
                signal.pause()


if __name__ == "__main__":
    main()
