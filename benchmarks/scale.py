"""`python -m benchmarks.scale`: admissions by the number of processes that ask, and by the length of the ledger.

Exit status 1 if a long ledger makes claims slower than the limit, or if purge can't keep up.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import count

import psycopg

from airflow_exclusive.core.admission import Claim
from airflow_exclusive.core.job import Request, new_owner
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.postgres.purge import purge
from airflow_exclusive.stores.postgres.schema import upgrade
from airflow_exclusive.stores.postgres.statuses import PostgresStatuses
from benchmarks.figures import median_pair_ms
from deploy.embedded.release import PROJECT
from deploy.embedded.servers import Servers

FOLDER = PROJECT / ".bench"
PROCESSES = (1, 2, 4, 8, 16)
SECONDS = 6.0
"""For which each number of processes asks."""
HISTORIES = (0, 1_000_000, 10_000_000)
CLAIMS = 1000
CLAIM_LIMIT = 1.2
"""Of the median of a claim on a long ledger over that on an empty one."""
JOBS = 4 * CLAIMS
ASKER = "asker"

_FILL = """
INSERT INTO exclusive.scheduled_job_run (job_name, run_key, generation, attempt, fencing_token, owner, node_id, outcome,
    started_at, finished_at, lease_seconds, renewed)
SELECT 'job ' || n %% %(jobs)s, 'tick ' || n / %(jobs)s, 1, 1, n / %(jobs)s + 1,
    lpad(to_hex(n), 12, '0') || left(md5(n::text), 20), 'node', 'success',
    now() - interval '100 days', now() - interval '100 days', 30, true
FROM generate_series(%(first)s::bigint, %(last)s::bigint - 1) AS n
"""
_POINT = """
INSERT INTO exclusive.scheduled_job_status (job_name) SELECT 'job ' || n FROM generate_series(0, %(jobs)s - 1) AS n
ON CONFLICT (job_name) DO NOTHING;
UPDATE exclusive.scheduled_job_status s SET owner = r.owner, fencing_token = r.fencing_token, run_key = r.run_key,
    generation = r.generation, attempt = r.attempt, lease_expires_at = NULL, status = 'success'
FROM (SELECT DISTINCT ON (job_name) * FROM exclusive.scheduled_job_run ORDER BY job_name, fencing_token DESC) AS r
WHERE r.job_name = s.job_name
"""


def main() -> int:
    servers = Servers(FOLDER / "scale")
    told = []
    try:
        servers.start("scale")
        for line in _measure(servers):
            print(json.dumps(line), flush=True)
            told.append(line)
    finally:
        servers.stop("scale")
        servers.remove()
    (FOLDER / "scale.json").write_text(json.dumps(told, indent=2) + "\n")
    missed = [line for line in told if line.get("over_empty", 0.0) > CLAIM_LIMIT]
    # purge keeps up: it deletes faster than all processes together can write
    written = max(line.get("admissions_per_s", 0.0) for line in told)
    missed += [line for line in told if line.get("purged_per_s", math.inf) < written]
    for line in missed:
        print(f"MISSED {json.dumps(line)}")
    return 1 if missed else 0


def _measure(servers: Servers) -> Iterator[dict[str, float]]:
    asked, empty = (_database(servers, name) for name in ("asked", "empty"))
    for number in PROCESSES:
        yield _side_by_side(servers.redis_url, asked, number)
    _fill(empty, 0, 0)
    filled = 0
    for history in HISTORIES:
        _fill(servers.status_dsn, filled, history)
        filled = history
        middle, floor = _claims_ms(servers.status_dsn, empty)
        yield {"attempts": history, "claim_p50_ms": round(middle, 3), "over_empty": round(middle / floor, 2)}
    yield _purge(servers.status_dsn)


def _database(servers: Servers, name: str) -> str:
    servers.postgres.ensure_database(name)
    dsn = servers.postgres.dsn(name)
    upgrade(dsn)
    return dsn


def _side_by_side(redis_url: str, dsn: str, number: int) -> dict[str, float]:
    """So many processes, each with jobs of its own: admit, finish, release, one after the other."""
    command = [sys.executable, "-m", "benchmarks.asker", redis_url, dsn, str(SECONDS)]
    askers = [
        subprocess.Popen([*command, f"asker {turn}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for turn in range(number)
    ]
    for asker in askers:
        assert asker.stdout is not None
        asker.stdout.readline()  # ready
    waits: list[float] = []
    for asker in askers:
        assert asker.stdin is not None
        asker.stdin.write("go\n")
        asker.stdin.flush()
    for asker in askers:
        waits += json.loads(asker.communicate()[0])
    hundredths = statistics.quantiles(waits, n=100)
    return {
        "processes": number,
        "admissions_per_s": round(len(waits) / SECONDS),
        "p50_ms": round(hundredths[49], 2),
        "p99_ms": round(hundredths[98], 2),
    }


def _fill(dsn: str, first: int, last: int) -> None:
    with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        for start in range(first, last, 1_000_000):
            connection.execute(_FILL, {"jobs": JOBS, "first": start, "last": min(last, start + 1_000_000)})
        connection.execute(_POINT, {"jobs": JOBS})
        connection.execute("VACUUM ANALYZE exclusive.scheduled_job_run")
        connection.execute("CHECKPOINT")


_jobs, _ticks = count(), count()


def _claims_ms(full: str, empty: str) -> tuple[float, float]:
    """Medians of claims in either database, in turn: whatever slows the machine down slows both."""
    databases = Database(full), Database(empty)
    try:
        first, second = (_claimer(database) for database in databases)
        return median_pair_ms(lambda: first(_job()), lambda: second(_job()), times=CLAIMS, warm_up=CLAIMS)
    finally:
        for database in databases:
            # forgotten again: the next million of attempts has these tokens
            database.run_text("DELETE FROM exclusive.scheduled_job_run WHERE node_id = %(node)s", {"node": ASKER})
            database.run_text("UPDATE exclusive.scheduled_job_status SET status = NULL, owner = NULL", None)
            database.close()


def _job() -> str:
    return f"job {next(_jobs) % JOBS}"


def _claimer(database: Database) -> Callable[[str], Claim]:
    statuses, settings = PostgresStatuses(database), LeaseSettings()

    def claim(job: str) -> Claim:
        made = statuses.claim(Request(job, f"new {next(_ticks)}", new_owner(), ASKER), settings)
        assert isinstance(made, Claim)
        return made

    return claim


def _purge(dsn: str) -> dict[str, float]:
    """All of the history goes while a job claims and finishes, one tick after the other."""
    deleted: list[int] = []
    owner, database = Database(dsn), Database(dsn)
    claim, statuses, waits = _claimer(database), PostgresStatuses(database), []

    def forget() -> None:
        deleted.append(purge(owner, "status", datetime.now(timezone.utc) - timedelta(days=90))["runs"])

    worker = threading.Thread(target=forget)
    began = time.perf_counter()
    worker.start()
    while worker.is_alive():
        sent = time.perf_counter()
        made = claim("a job at work")
        waits.append((time.perf_counter() - sent) * 1000)
        statuses.finish(made, "success", None, 0)
    took = time.perf_counter() - began
    owner.close()
    database.close()
    return {
        "purged": deleted[0],
        "purged_per_s": round(deleted[0] / took),
        "claims_meanwhile_per_s": round(len(waits) / took),
        "claim_p50_ms": round(statistics.median(waits), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
