"""A wall clock that tests set, for processes that are started with it (libfaketime)."""

from __future__ import annotations

from pathlib import Path

from tests.support.servers import not_installed

_REAL_SLEEP = Path(__file__).parent / "real_sleep"


class SetClock:
    """The monotonic clock is left alone, as the kernel does. `file` must be readable by who runs the processes."""

    def __init__(self, file: Path) -> None:
        libraries = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not libraries:
            not_installed("libfaketime")
        self._file, self._library = file, str(libraries[0])
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # Else a thread that waits for Python's interpreter lock gets it ten times as seldom.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "PYTHONPATH": str(_REAL_SLEEP),
        }

    def set(self, seconds: int) -> None:
        """So much ahead of the true time."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.chmod(0o644)
        fresh.rename(self._file)

    def rules(self, *pids: int) -> bool:
        return all(self._library in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
