"""A process that runs ticks the moment it is told to: `python -m tests.support.claimers DSN JOB NODE`.

Reads run_keys, one a line, and answers each with the token under which it ran it, or 0.
"""

from __future__ import annotations

import sys

from airflow_exclusive.core.admission import Claim
from airflow_exclusive.core.settings import LeaseSettings
from tests.support.ledger import Ledger, request


def main() -> None:
    dsn, job, node = sys.argv[1:]
    ledger = Ledger(dsn)
    print("ready", flush=True)
    for line in sys.stdin:
        token = 0
        answer = ledger.statuses.claim(request(line.strip(), job=job, node=node), LeaseSettings())
        if isinstance(answer, Claim):
            ledger.statuses.finish(answer, "success", None, 0)
            token = answer.attempt.fencing_token
        print(token, flush=True)
    ledger.close()


if __name__ == "__main__":
    main()
