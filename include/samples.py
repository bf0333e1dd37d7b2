"""Jobs that do nothing but take their time, for the examples of operators, sensors and policies."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from include.statements import statement

if TYPE_CHECKING:
    from airflow_exclusive import Lease

log = logging.getLogger(__name__)


def work_in_steps(lease: Lease, steps: int, seconds: float = 1.0) -> int:
    """Take `seconds` for each step, and stop between two when the lease is lost."""
    for step in range(1, steps + 1):
        lease.ensure_held()
        log.info("step %s of %s with token %s", step, steps, lease.token)
        time.sleep(seconds)
    return steps


def transfer(lease: Lease, conn: Any, amount: int) -> None:
    """Two steps, each with effects of its own: a crash between them repeats neither."""
    with conn.cursor() as cursor:
        cursor.execute(statement("create_ledger"))
    conn.commit()
    for step, account, change in (("withdraw", "till", -amount), ("deposit", "bank", amount)):
        with lease.transaction(conn, step=step) as tx:
            if not tx.done:
                tx.execute(statement("add_to_account"), {"account": account, "amount": change})
