"""What attempts write down while they work, and whether two of them ever worked at the same time.

Each attempt adds a line to `<token>.beats` several times a second: seconds on the machine's monotonic clock, which all
of its processes share. A killed attempt has left its last beat, so nobody has to tell when it ended.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

BEAT = 0.05


class Diary:
    """The side of the attempt with this fencing token."""

    def __init__(self, folder: Path, token: int) -> None:
        self._file = folder / f"{token}.beats"

    def beat(self) -> None:
        """Say: I am working now."""
        with self._file.open("a") as file:
            file.write(f"{time.monotonic()}\n")


def worked(folder: Path) -> dict[int, tuple[float, float]]:
    """Fencing token -> first and last beat."""
    spans = {}
    for file in folder.glob("*.beats"):
        beats = [float(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if beats:
            spans[int(file.stem)] = (min(beats), max(beats))
    return spans


def assert_no_overlap(folder: Path, *, attempts: int) -> None:
    """So many attempts have worked, one after the other, in the order of their tokens."""
    spans = sorted(worked(folder).items())
    assert len(spans) == attempts, spans
    for (earlier, (_, last)), (later, (first, _)) in pairwise(spans):
        assert last < first, f"attempt {earlier} worked until {last}, attempt {later} from {first} on"
