"""A job that does what it is told: `python -m tests.support.job ORDER`, with the order as JSON.

It asks for admission, says `{"admitted": …}` or `{"refused": …}`, then answers each command of its stdin, a JSON list
of a name and keyword arguments, with one line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg

from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import JobGuard

_ADD = "INSERT INTO effect (token) VALUES (%(token)s)"


def check(lease: Lease) -> str:
    lease.ensure_held()
    return "held"


def finish(lease: Lease, outcome: str = "success") -> str:
    lease.finish(outcome)
    return outcome


def write(lease: Lease, dsn: str, then_die: bool = False) -> str:
    """One row, exactly once."""
    with psycopg.connect(dsn) as conn, lease.transaction(conn) as tx:
        tx.execute(_ADD, {"token": lease.token})
    if then_die:
        os.kill(os.getpid(), signal.SIGKILL)
    return "was done" if tx.done else "written"


def hold_the_gil(lease: Lease, seconds: float) -> float:
    """Stay in one C call, that gives nobody else the GIL, for at least so long; twice as long as the one before."""
    took, length = 0.0, 18
    while took < seconds:
        began = time.monotonic()
        re.match("(a+)+b", "a" * length)
        took = time.monotonic() - began
        length += 1
    return took


def fork(lease: Lease) -> int:
    """A child that does nothing but live on, with all open files of its parent."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


def spawn(lease: Lease) -> int:
    """A program in a session of its own, that only the environment tells to be the job's."""
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    environment = {**os.environ, **lease.environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True).pid


def keeper(lease: Lease) -> int:
    return int(lease._keeper.pid)  # type: ignore[attr-defined]


def ignore_sigterm(lease: Lease) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command for command in (check, finish, write, hold_the_gil, fork, spawn, keeper, ignore_sigterm)
}


def main() -> None:
    order = json.loads(sys.argv[1])
    settings = LeaseSettings(**order["settings"])
    with JobGuard(redis=order["redis"], postgres=order["postgres"]) as guard:
        admission = guard.admit(order["job"], run_key=order["run_key"], wait=order["wait"], settings=settings)
        if not isinstance(admission, Admitted):
            say({"refused": str(admission)})
            return
        lease = admission.lease
        say({"admitted": {"token": lease.token, "owner": lease.owner, "keeper": keeper(lease)}})
        for line in sys.stdin:
            name, arguments = json.loads(line)
            try:
                say({"answer": COMMANDS[name](lease, **arguments)})
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error}"})


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
