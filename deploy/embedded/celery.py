"""What the CeleryExecutor needs beside Airflow: workers, a broker, and a place for their results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import redis

BROKER_DATABASE = 1
"""Number of the broker's database on the lock server; the locks are in 0."""
_ANSWER_WITHIN = 2.0


@dataclass(frozen=True)
class Celery:
    """Workers as processes of their own, each a node of its own: `worker-1`, `worker-2`, …"""

    broker_url: str
    result_backend: str
    """As Celery has it: `db+postgresql+psycopg2://…`."""
    workers: int
    concurrency: int
    """How many tasks each runs at once."""

    @property
    def components(self) -> Mapping[str, Sequence[str]]:
        """Name of each worker, and the arguments of `airflow` that start it."""
        names = [f"worker-{number}" for number in range(1, self.workers + 1)]
        return {name: ("celery", "worker", "--celery-hostname", name, "--skip-serve-logs") for name in names}

    @property
    def settings(self) -> Mapping[str, str]:
        """Airflow's settings, as `section.option`."""
        return {
            "celery.broker_url": self.broker_url,
            "celery.result_backend": self.result_backend,
            "celery.worker_concurrency": str(self.concurrency),
        }

    def answers(self, workers: Collection[str]) -> bool:
        """Whether each of these workers takes part: it has the broker, and its main loop turns."""
        if not workers:
            return True
        from celery import Celery as App
        from kombu.exceptions import OperationalError

        names = {f"celery@{worker}" for worker in workers}
        with App(broker=self.broker_url, set_as_current=False) as app:
            try:
                replies = app.control.ping(destination=sorted(names), timeout=_ANSWER_WITHIN, limit=len(names))
            except (OperationalError, redis.ConnectionError):
                return False
        return names <= {name for reply in replies for name in reply}
