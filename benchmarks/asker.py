"""Asks for tick after tick of a job of its own, for some seconds; tells how many milliseconds each took."""

from __future__ import annotations

import json
import sys
import time

from airflow_exclusive import JobGuard
from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.guard import Guard
from benchmarks.admission import no_keeper


def main(redis_url: str, dsn: str, seconds: str, job: str) -> None:
    with JobGuard(redis=redis_url, postgres=dsn) as guard:
        bare = Guard(guard.locks, guard.statuses, no_keeper, guard.effects, guard.node_id, guard.clock)
        print("ready", flush=True)
        sys.stdin.readline()
        waits, first, end = [], time.time_ns(), time.perf_counter() + float(seconds)
        while (sent := time.perf_counter()) < end:
            admission = bare.admit(job, run_key=f"tick {first + len(waits)}")
            waits.append((time.perf_counter() - sent) * 1000)
            assert isinstance(admission, Admitted)
            admission.lease.finish()
    print(json.dumps(waits))


main(*sys.argv[1:])
