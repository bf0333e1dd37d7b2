"""A descriptor that the job may close: then its number may be another file's, which is none of ours."""

from __future__ import annotations

import os


class Descriptor:
    def __init__(self, number: int) -> None:
        self.number = number
        self._file = _file_of(number)

    @property
    def is_ours(self) -> bool:
        """Whether it is open still, and the file that it was when this was made."""
        return self._file is not None and _file_of(self.number) == self._file

    def close(self) -> None:
        if self.is_ours:
            os.close(self.number)


def _file_of(number: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
