"""The memory that keeper and job share: readable at any time without a system call or a lock."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

_LAYOUT = struct.Struct("=dd?480s")


@dataclass(frozen=True)
class Entry:
    """`confirmed` and `lost` as in `TrustWindow`; `ready`: the keeper is up and may be renewing."""

    confirmed: float
    lost: float | None = None
    ready: bool = False
    reason: str = ""


class Page:
    """One `Entry` in a file without a name, inherited by descriptor. One writer at a time, any number of readers."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 2 * _LAYOUT.size)

    @classmethod
    def create(cls, entry: Entry) -> Page:
        with tempfile.TemporaryFile() as file:
            file.truncate(2 * _LAYOUT.size)
            page = cls(os.dup(file.fileno()))
        page.write(entry)
        return page

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)

    def write(self, entry: Entry) -> None:
        reason = entry.reason.encode()[:480]
        packed = _LAYOUT.pack(entry.confirmed, entry.lost or 0.0, entry.ready, reason)
        # Two copies, written in this order and read in the other: a reader that finds them equal saw a whole entry.
        self._memory[: _LAYOUT.size] = packed
        self._memory[_LAYOUT.size :] = packed

    def read(self) -> Entry:
        while True:
            second = self._memory[_LAYOUT.size :]
            first = self._memory[: _LAYOUT.size]
            if first == second:
                confirmed, lost, ready, reason = _LAYOUT.unpack(first)
                return Entry(confirmed, lost or None, ready, reason.rstrip(b"\0").decode(errors="replace"))
