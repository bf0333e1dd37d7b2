"""What a stack has written down about itself, so that another command finds it again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.embedded.process import Daemon


@dataclass(frozen=True)
class StackState:
    """The processes of one start; `complete` once all of them were ready."""

    mark: str
    api_port: int
    complete: bool = False
    daemons: dict[str, Daemon] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> StackState | None:
        """What was written last; None where nothing was."""
        try:
            written = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        daemons = {
            name: Daemon(name, entry["pid"], entry["created"], Path(entry["log"]))
            for name, entry in written["daemons"].items()
        }
        return cls(written["mark"], written["api_port"], written["complete"], daemons)

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        daemons = {
            name: {"pid": daemon.pid, "created": daemon.created, "log": str(daemon.log)}
            for name, daemon in self.daemons.items()
        }
        content = {"mark": self.mark, "api_port": self.api_port, "complete": self.complete, "daemons": daemons}
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)


class InUseError(RuntimeError):
    """Another command is starting or stopping this stack right now."""


@contextmanager
def exclusive_use(folder: Path) -> Iterator[None]:
    """Keep other commands off `folder` meanwhile; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InUseError(f"{folder} is being started or stopped by another command") from None
    finally:
        os.close(handle)
