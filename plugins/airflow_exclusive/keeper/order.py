"""What the job tells its keeper at the start, through a pipe, since it holds passwords."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Order:
    """Addresses, the claim's identity, and the durations in seconds that the keeper goes by."""

    redis: str
    postgres: str
    schema: str
    job_name: str
    run_key: str
    owner: str
    fencing_token: int
    job_pid: int
    ttl: float
    renew: bool
    on_lease_lost: str
    must_end_at: float | None
    """On the node's clock: `max_run_time` is over then."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        return cls(**json.loads(text))
