"""How a moment of the database's clock becomes one of the node's."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from airflow_exclusive.core.standby import Standby
from tests.support.fakes import Clock


def test_patience_does_not_end_early_because_an_answer_took_its_time() -> None:
    node = Clock(1000.0)

    class SlowDatabase:
        async def clock(self) -> float:
            node.now += 3
            return 106.0

    standby = Standby(cast("Any", SlowDatabase()), node, asyncio.sleep)
    assert asyncio.run(standby.since(100.0)) == 1003 - 6
