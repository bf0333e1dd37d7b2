"""Python processes that a test starts, with this checkout's package on their path."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import airflow_exclusive

CHECKOUT = Path(__file__).resolve().parents[2]
_PATH = [str(CHECKOUT), str(Path(airflow_exclusive.__file__).resolve().parents[1])]


def start(module: str, *arguments: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """`python -m module arguments`, with text pipes to its stdin and stdout."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*_PATH, os.environ.get("PYTHONPATH", "")])},
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    """Kill it if it is still there, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
