"""The Lua scripts and keys, described without a connection, so that sync and async clients share them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

WAKE_UP_LASTS_MS = 2000


@cache
def lua(name: str) -> str:
    """The text of `lua/<name>.lua`."""
    return (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")


@cache
def digest(name: str) -> str:
    """What a server knows the script by, once it has seen it."""
    return hashlib.sha1(lua(name).encode(), usedforsecurity=False).hexdigest()


def lock_key(job_name: str) -> str:
    """The key of a job's lock. The braces keep a job's keys on one cluster node, so those of the name are escaped."""
    return f"lock:job:{{{job_name.replace('%', '%25').replace('{', '%7B').replace('}', '%7D')}}}"


def wake_key(job_name: str) -> str:
    """The list on which a waiter of the job sleeps; it exists for two seconds after a release."""
    return lock_key(job_name) + ":wake"


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
