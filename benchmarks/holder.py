"""A job that runs until it is killed: says its keeper's pid when it has the lease."""

from __future__ import annotations

import signal
import sys

from airflow_exclusive import JobGuard
from airflow_exclusive.keeper.handle import KeeperHandle


def main(redis_url: str, dsn: str, job: str, ttl: str) -> None:
    with JobGuard(redis=redis_url, postgres=dsn) as guard, guard.hold(job, run_key="tick", ttl=float(ttl)) as lease:
        keeper = lease._keeper
        assert isinstance(keeper, KeeperHandle)
        print(keeper.pid, flush=True)
        signal.pause()


main(*sys.argv[1:])
