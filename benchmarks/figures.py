"""A figure, its limit, and how they are shown and kept."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """`value` must not exceed `limit`; `detail` says what the value was made of."""

    name: str
    value: float
    limit: float
    unit: str
    detail: str

    @property
    def ok(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "MISSED"
        return f"{verdict:6} {self.name}: {self.value:.3g} {self.unit} (limit {self.limit:g}); {self.detail}"


def median_ms(action: Callable[[], object], *, times: int, warm_up: int = 3) -> float:
    """Median duration of `action` in milliseconds."""
    return statistics.median(durations_ms(action, times=times, warm_up=warm_up))


def durations_ms(action: Callable[[], object], *, times: int, warm_up: int = 3) -> list[float]:
    for _ in range(warm_up):
        action()
    measured = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        measured.append((time.perf_counter() - began) * 1000)
    return measured


def median_pair_ms(
    first: Callable[[], object], second: Callable[[], object], *, times: int, warm_up: int = 3
) -> tuple[float, float]:
    """Medians of two actions that take turns, each the first of every other, so that nothing but they differs."""
    measured: dict[Callable[[], object], list[float]] = {first: [], second: []}
    for turn in range(warm_up + times):
        for action in (first, second) if turn % 2 else (second, first):
            duration = durations_ms(action, times=1, warm_up=0)[0]
            if turn >= warm_up:
                measured[action].append(duration)
    return statistics.median(measured[first]), statistics.median(measured[second])


def save(figures: Iterable[Figure], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{**asdict(figure), "ok": figure.ok} for figure in figures], indent=2) + "\n")
