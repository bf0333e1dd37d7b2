"""A task whose output goes to its supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

TASK = """
import os, signal
from airflow_exclusive.airflow.orphan import output_outlives_supervisor

with output_outlives_supervisor():
    left_behind = os.fork()
    if left_behind == 0:
        signal.pause()
print(left_behind, flush=True)
"""


def test_a_fork_that_is_left_behind_holds_nobody_up() -> None:
    ours, theirs = socket.socketpair()
    task = subprocess.Popen([sys.executable, "-c", TASK], stdout=theirs)
    theirs.close()
    with ours.makefile() as output:
        left_behind = int(output.readline())
    assert task.wait() == 0
    os.kill(left_behind, signal.SIGKILL)
    ours.close()
