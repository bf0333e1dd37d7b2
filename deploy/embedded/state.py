"""What has been started, written down so that another command finds it again."""

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
class State:
    """The processes of one start; `complete` once all of them were ready. `users` are the names of who needs them."""

    mark: str
    complete: bool = False
    daemons: dict[str, Daemon] = field(default_factory=dict)
    api_port: int | None = None
    users: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: Path) -> State | None:
        """What was written last; None where nothing was."""
        try:
            written = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        daemons = {
            name: Daemon(name, entry["pid"], entry["created"], Path(entry["log"]))
            for name, entry in written["daemons"].items()
        }
        return cls(written["mark"], written["complete"], daemons, written["api_port"], frozenset(written["users"]))

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        daemons = {
            name: {"pid": daemon.pid, "created": daemon.created, "log": str(daemon.log)}
            for name, daemon in self.daemons.items()
        }
        content = {
            "mark": self.mark,
            "complete": self.complete,
            "daemons": daemons,
            "api_port": self.api_port,
            "users": sorted(self.users),
        }
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)


class InUseError(RuntimeError):
    """Another command is starting or stopping the same thing right now."""


@contextmanager
def exclusive_use(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep others off `folder` meanwhile; the lock ends with the process, however that ends.

    Raises `InUseError` when somebody has it, unless told to wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError:
        raise InUseError(f"{folder} is being started or stopped by another command") from None
    finally:
        os.close(handle)
