"""The memory that keeper and job share: readable at any time without a system call or a lock."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airflow_exclusive.keeper.descriptor import Descriptor

_LAYOUT = struct.Struct("=ddQ480s")
_CHECKSUM = struct.Struct("=I")
_COPY = _LAYOUT.size + _CHECKSUM.size
_AFTER_STANDARD_STREAMS = 3
_kept: list[mmap.mmap] = []


@dataclass(frozen=True)
class Entry:
    """`confirmed` and `lost` as in `TrustWindow`; `turns`: how many its loop has made, the keeper's sign of life."""

    confirmed: float
    lost: float | None = None
    turns: int = 0
    reason: str = ""

    @property
    def ready(self) -> bool:
        """The keeper is up and may be renewing."""
        return self.turns > 0


class Page:
    """One `Entry` in a file without a name, inherited by descriptor. One writer at a time, any number of readers.

    name: what /proc calls it where it is mapped; empty where there is no /proc.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._file = Descriptor(descriptor)
        self.name = ""
        with suppress(OSError):
            self.name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        self._memory = mmap.mmap(descriptor, 2 * _COPY)

    @classmethod
    def create(cls, entry: Entry) -> Page:
        with _file_without_name() as file:
            file.write(bytes(2 * _COPY))  # for what has no room yet a full disk would be a SIGBUS later
            file.flush()
            page = cls(fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, _AFTER_STANDARD_STREAMS))
        page.write(entry)
        return page

    @property
    def is_ours(self) -> bool:
        """Whether the descriptor still is the page's."""
        return self._file.is_ours

    def close(self) -> None:
        if self._memory.closed:
            return
        if self.is_ours:
            self._memory.close()
            self._file.close()
        else:  # the memory has a descriptor as well: it is some other file's by now, or may be before it is closed
            _kept.append(self._memory)

    def write(self, entry: Entry) -> None:
        reason = entry.reason.encode(errors="replace")[:480]
        packed = _LAYOUT.pack(entry.confirmed, entry.lost or 0.0, entry.turns, reason)
        packed += _CHECKSUM.pack(zlib.crc32(packed))
        # Two copies, one after the other: whenever the writer is stopped or killed, one of them is whole.
        self._memory[:_COPY] = packed
        self._memory[_COPY:] = packed

    def read(self) -> Entry:
        while True:
            for start in (0, _COPY):
                packed = self._memory[start : start + _COPY]
                if zlib.crc32(packed[: _LAYOUT.size]) == _CHECKSUM.unpack_from(packed, _LAYOUT.size)[0]:
                    confirmed, lost, turns, reason = _LAYOUT.unpack_from(packed)
                    return Entry(confirmed, lost or None, turns, reason.rstrip(b"\0").decode(errors="replace"))


def _file_without_name() -> IO[bytes]:
    """On no disk, where the system has such. What maps list it as is its own: by that forks are found."""
    with suppress(AttributeError, OSError):
        return os.fdopen(os.memfd_create(f"exclusive-page-{os.urandom(8).hex()}", os.MFD_CLOEXEC), "w+b")
    return tempfile.TemporaryFile()
