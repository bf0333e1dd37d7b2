"""The stage of `make demo`: Airflow, and a second node that wants the same ticks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from deploy.demo.account import Account, by_tick
from deploy.demo.second_node import SecondNode
from deploy.demo.stage import Share, Stage
from deploy.demo.ticks import GUARDED_DAG, JANUARY, UNGUARDED_DAG
from deploy.embedded import FULL
from deploy.embedded.stack import STATE_FOLDER

DEMO_FOLDER = STATE_FOLDER / "demo"

_NODE = "airflow"
_AT_ONCE = 2


class TwoNodes(Stage):
    """With a second node, which waits with the ticks that are to be struck until they are let go."""

    nodes = (_NODE,)
    introduction = f"two nodes want the {len(JANUARY.ticks)} ticks of {JANUARY.name}, {JANUARY.flights:,} flights"

    def __init__(
        self, folder: Path = DEMO_FOLDER, *, verbose: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> None:
        super().__init__(
            folder,
            # one more than may be needed at once: a killed worker's place is lost for a while
            replace(FULL, parallelism=_AT_ONCE + _AT_ONCE + 1),
            Share(GUARDED_DAG, JANUARY, _AT_ONCE),
            Share(UNGUARDED_DAG, JANUARY, _AT_ONCE),
            env={"EXCLUSIVE_NODE": _NODE},
            say=say,
        )
        self._verbose = verbose
        self._second: SecondNode | None = None

    @property
    def second(self) -> SecondNode:
        assert self._second is not None, "the second node has not been started"
        return self._second

    def begin(self, struck: Sequence[str]) -> None:
        super().begin(struck)
        environment = {
            **self.stack.airflow.environment,
            "EXCLUSIVE_REDIS_URL": self.stack.redis_url,
            "EXCLUSIVE_POSTGRES_DSN": self.stack.status_dsn,
            "WAREHOUSE_DSN": self.stack.warehouse_dsn,
        }
        self._second = SecondNode(environment, self.folder / "second-node.log", struck)
        self._second.start()

    def let_go(self, tick: str) -> None:
        self.second.let_go(tick)

    def progress(self) -> dict[str, tuple[int, int]]:
        return super().progress() | {
            f"second node, {kind}": (done, len(JANUARY.ticks)) for kind, done in self.second.done.items()
        }

    def table(self, account: Account, struck: dict[str, str]) -> Table:
        return by_tick(account, struck)

    def notes(self) -> list[str]:
        told = [(self.folder / "second-node.log").read_text()] if self._verbose else []
        return told + [f"note: a command of the second node, {failure}" for failure in self.second.failures]

    def __exit__(self, *details: object) -> None:
        if self._second is not None:
            self._second.stop()
        super().__exit__(*details)
