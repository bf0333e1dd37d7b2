"""A job that does what it is told: `python -m tests.support.job ORDER`, with the order as JSON.

It asks for admission, says `{"admitted": …}` or `{"refused": …}`, then answers each command of its stdin, a JSON list
of a name and keyword arguments, with one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg

from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.errors import LeaseLost
from airflow_exclusive.core.lease import Lease
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import JobGuard
from airflow_exclusive.keeper import handle
from tests.support import parent_job

guards: list[JobGuard] = []
others: list[Lease] = []
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
    return parent_job.hold_the_gil(seconds)


def hold_the_gil_until_told(lease: Lease) -> str:
    """Say that no other thread gets it any more, and keep it until something is written to stdin."""
    libc = ctypes.PyDLL(None)  # its functions keep the GIL
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    line = (json.dumps({"answer": "holding"}) + "\n").encode()
    libc.write(1, line, len(line))
    libc.read(0, ctypes.create_string_buffer(64), 64)
    sys.setswitchinterval(before)
    return "let go"


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


def hold_another(lease: Lease, job: str, run_key: str, ttl: float) -> int:
    """A second lease of this process. Gives its keeper."""
    admission = guards[0].admit(job, run_key=run_key, settings=LeaseSettings(ttl=ttl))
    assert isinstance(admission, Admitted), str(admission)
    others.append(admission.lease)
    return keeper(admission.lease)


def turns(lease: Lease) -> int:
    """How often its keeper has looked around."""
    return int(lease._keeper._page.read().turns)  # type: ignore[attr-defined]


def lose_the_package(lease: Lease, *, boot: str = "raise SystemExit(1)") -> None:
    """From now on no keeper can be started any more, as in the middle of an upgrade."""
    handle._BOOT = boot


def freeze_new_keepers(lease: Lease) -> None:
    """From now on no keeper gets to its first turn."""
    spawn = handle.KeeperHandle._spawn

    def spawn_frozen(self: handle.KeeperHandle) -> subprocess.Popen[bytes]:
        process = spawn(self)
        process.send_signal(signal.SIGSTOP)
        return process

    handle.KeeperHandle._spawn = spawn_frozen  # type: ignore[method-assign]


def fork_and_leave(lease: Lease) -> list[str]:
    """What a fork that ends like any other process is told when it ends the attempt, and leaves the lease's block."""
    read, write = os.pipe()
    if os.fork() == 0:
        told = ["nothing"]
        try:
            lease.finish()
        except LeaseLost as refused:
            told = [str(refused)]
        lease.__exit__(None, None, None)
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        heard: list[str] = json.loads(answer.read())
    os.wait()
    return heard


def ask_in_a_fork(lease: Lease) -> list[object]:
    """Who runs, as a fork and its parent are told on what was the parent's guard, in turn."""
    answers: list[object] = []
    for _ in range(3):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, json.dumps([job.owner for job in guards[0].status()]).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            answers.append(json.loads(answer.read() or "null"))
        os.wait()
        answers.append([job.owner for job in guards[0].status()])
    return answers


def ignore_sigterm(lease: Lease) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command
    for command in (
        check,
        finish,
        write,
        hold_the_gil,
        hold_the_gil_until_told,
        fork,
        spawn,
        keeper,
        hold_another,
        turns,
        lose_the_package,
        freeze_new_keepers,
        fork_and_leave,
        ask_in_a_fork,
        ignore_sigterm,
    )
}


def main() -> None:
    order = json.loads(sys.argv[1])
    settings = LeaseSettings(**order["settings"])
    with JobGuard(redis=order["redis"], postgres=order["postgres"]) as guard:
        guards.append(guard)
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
