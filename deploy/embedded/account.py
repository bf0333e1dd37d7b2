"""Who runs PostgreSQL, and where that user can reach its files.

PostgreSQL refuses to run as root. When root starts it, another user has to, and that user must be able to reach both
the program and the data: not so in a checkout below a folder like /root. Nobody's folders get other modes for that;
program and data move to a folder of their own instead.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


class PopenArguments(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_service(cls) -> Account | None:
        """The user for a server that refuses root; None when whoever runs this is somebody else already."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        raise RuntimeError("PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody")

    def popen_arguments(self) -> PopenArguments:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_run(self, program: Path) -> bool:
        """Whether this user can start `program`; tried, for modes alone do not tell."""
        try:
            done = subprocess.run(
                [program, "--version"], cwd="/", capture_output=True, check=False, **self.popen_arguments()
            )
        except OSError:
            return False
        return done.returncode == 0

    def can_enter(self, folder: Path) -> bool:
        """Whether this user can make `folder` its working directory."""
        command = ["/bin/sh", "-c", 'cd "$1" 2>/dev/null', "sh", str(folder.resolve())]
        return subprocess.run(command, cwd="/", check=False, **self.popen_arguments()).returncode == 0

    def own(self, folder: Path) -> None:
        os.chown(folder, self.uid, self.gid)


def server_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a server gets to see: nothing of ours but PATH, so that no locale or PG… setting leads it astray."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **extra}


def service_folder(purpose: Path) -> Path:
    """A folder any user can reach, the same one for the same `purpose` each time, that nobody but us can write to.

    The parent is open to all, so a stranger could have put something there first: then this raises PermissionError.
    """
    name = f"airflow-exclusive-{os.geteuid()}-{hashlib.sha256(str(purpose.resolve()).encode()).hexdigest()[:12]}"
    durable = Path("/var/tmp")  # noqa: S108 - the name is checked below
    folder = (durable if durable.is_dir() else Path(tempfile.gettempdir())) / name
    try:
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{folder} is not ours; remove it") from None
    return folder
