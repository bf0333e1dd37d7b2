"""What is asked for: a job, one of its ticks, and who asks."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """Where a request comes from: the Airflow task instance, or empty fields for the command line and the library.

    `cleared_tries`: how many tries of this task instance a person has cleared away (0 where nobody did). A success
    that Airflow has shown for one of them doesn't count any more: it was asked to run again.
    """

    deployment: str = ""
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    try_number: int = 0
    cleared_tries: int = 0

    @property
    def is_task_instance(self) -> bool:
        return bool(self.dag_id)

    def same_task_instance(self, other: Source | None) -> bool:
        """Whether both are tries of one Airflow task instance (so the other one is no stranger)."""
        return other is not None and self.is_task_instance and self._identity == other._identity

    @property
    def _identity(self) -> tuple[str, str, str, str, int]:
        return self.deployment, self.dag_id, self.run_id, self.task_id, self.map_index

    def __str__(self) -> str:
        if not self.is_task_instance:
            return self.deployment or "command line"
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.deployment}: {self.dag_id}.{self.task_id}{mapped} {self.run_id} try {self.try_number}"


@dataclass(frozen=True)
class Request:
    """One question to the stores: may this owner run this tick of this job?"""

    job_name: str
    run_key: str
    owner: str
    node_id: str
    source: Source = field(default_factory=Source)
    rerun: bool = False
    """Run the tick again although it is done, as a new generation."""


def new_owner() -> str:
    """The unique id of one attempt. It begins with the time, so that the newest ones lie together in an index."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
