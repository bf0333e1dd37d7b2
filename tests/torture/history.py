"""What happened, and when, as told by those to whom it happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """`at` is in seconds since the epoch: one clock for all processes, which nobody sets meanwhile."""

    at: float
    kind: str
    details: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.details[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class History:
    """Lines of JSON, appended by any number of processes."""

    file: Path

    def note(self, kind: str, **details: Any) -> None:
        line = json.dumps([time.time(), kind, details], default=str) + "\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def events(self, *kinds: str) -> Iterator[Event]:
        for line in self.file.read_text().splitlines():
            event = Event(*json.loads(line))
            if event.kind in kinds:
                yield event
