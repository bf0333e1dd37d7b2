"""Python processes in which Airflow starts afresh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def told_by(
    script: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    timeout: float = 120,
) -> Any:
    """What `script` prints as its last line, in JSON. `env` on top of an environment that has nothing but a home."""
    done = subprocess.run(
        [sys.executable, *options, "-c", script, *arguments],
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "AIRFLOW_HOME": os.environ["AIRFLOW_HOME"],
            "HOME": os.environ["AIRFLOW_HOME"],
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **(env or {}),
        },
        cwd=os.environ["AIRFLOW_HOME"],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
