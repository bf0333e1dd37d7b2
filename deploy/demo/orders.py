"""Ordering a job to wait at a checkpoint, and learning that it does; the other side is `include.checkpoints`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Checkpoint:
    """One place in one tick's run."""

    folder: Path
    tick: str
    point: str

    @property
    def _order(self) -> Path:
        return self.folder / f"{self.tick}.{self.point}"

    @property
    def _trace(self) -> Path:
        return self._order.with_name(f"{self._order.name}.reached")

    def order(self) -> None:
        """From now on whoever comes by waits there."""
        self._order.touch()

    def lift(self) -> None:
        """Let whoever waits go on, and let everybody else pass."""
        self._order.unlink(missing_ok=True)

    @property
    def reached(self) -> bool:
        """Whether somebody has come by."""
        return self._trace.exists()

    def reached_by(self) -> psutil.Process | None:
        """The process that waits there, once it does; on this machine and in this container."""
        try:
            return psutil.Process(int(self._trace.read_text()))
        except FileNotFoundError:
            return None
