"""The lease as a child process sees it: started by a guarded task or by `airflow-exclusive run`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from airflow_exclusive.core.errors import LeaseLost
from airflow_exclusive.core.lease import StepTransaction
from airflow_exclusive.stores.postgres import effects
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA


@dataclass(frozen=True)
class InheritedLease:
    """Enough of the parent's lease to write with. It ends with the parent's, and the process is ended with it."""

    job_name: str
    run_key: str
    generation: int
    token: int
    schema: str = DEFAULT_SCHEMA

    def ensure_held(self) -> None:
        """Nothing to ask: the parent's keeper ends this process with the lease, and the fence does the rest."""

    def transaction(self, conn: Any, step: str = "main") -> AbstractContextManager[StepTransaction]:
        """As `Lease.transaction`."""
        return effects.transaction(self, conn, step, schema=self.schema)


def inherited_lease(environ: Mapping[str, str] = os.environ) -> InheritedLease:
    """The lease that this process was started under. Raises `LeaseLost` where there is none.

    airflow-exclusive run totals --run-key 2013-01-02 -- python totals.py

    with inherited_lease().transaction(connection) as tx: ...          # in totals.py
    """
    try:
        return InheritedLease(
            environ["EXCLUSIVE_JOB"],
            environ["EXCLUSIVE_RUN_KEY"],
            int(environ["EXCLUSIVE_GENERATION"]),
            int(environ["EXCLUSIVE_TOKEN"]),
            environ.get("EXCLUSIVE_SCHEMA") or DEFAULT_SCHEMA,
        )
    except KeyError as missing:
        raise LeaseLost(f"{missing.args[0]} isn't set: this process was not started under a lease") from None
