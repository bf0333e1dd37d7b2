"""What `doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """error: jobs can't run, or could run twice; warning: that may come; note: worth knowing. `cure` is what to do."""

    level: Level
    subject: str
    text: str
    cure: str = ""
