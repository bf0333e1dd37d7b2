"""The memory shared by job and keeper: read whole, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import airflow_exclusive
from airflow_exclusive.keeper import started
from airflow_exclusive.keeper.page import Entry, Page
from airflow_exclusive.keeper.started import sharing
from tests.support.waiting import eventually


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page.create(Entry(confirmed=1.0))
    yield made
    made.close()


REASONS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.floats(1, 1e9), st.none() | st.floats(1, 1e9), st.integers(0, 2**64 - 1), REASONS)
def test_what_was_written_is_read(confirmed: float, lost: float | None, turns: int, reason: str) -> None:
    made = Page.create(Entry(1.0))
    made.write(Entry(confirmed, lost, turns, reason))
    read = made.read()
    made.close()
    assert (read.confirmed, read.lost, read.turns, read.ready) == (confirmed, lost, turns, turns > 0)
    assert reason.startswith(read.reason.rstrip("�"))


def test_a_reason_that_cannot_be_encoded_is_still_written(page: Page) -> None:
    page.write(Entry(2.0, 3.0, 7, "file \udcff is gone"))
    assert page.read() == Entry(2.0, 3.0, 7, "file ? is gone")


@pytest.mark.parametrize("cut", range(0, 1200, 37))
def test_a_writer_that_died_in_the_middle_leaves_the_old_entry_or_the_new_one(page: Page, cut: int) -> None:
    old, new = Entry(1.0, None, 7, "old"), Entry(2.0, 3.0, 7, "new")
    page.write(new)
    written = bytes(page._memory[:])
    page.write(old)
    page._memory[: min(cut, len(written))] = written[:cut]

    read: list[Entry] = []
    reader = threading.Thread(target=lambda: read.append(page.read()), daemon=True)
    reader.start()
    reader.join(5)
    assert read in ([old], [new])


def test_readers_never_see_half_an_entry(page: Page) -> None:
    entries = [Entry(float(n), float(n), n, str(n) * 100) for n in range(1, 8)]
    page.write(entries[0])
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            for entry in entries:
                page.write(entry)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(page.read() in entries for _ in range(20_000))
    finally:
        over.set()
        writer.join()


@pytest.fixture(params=["memory", "disk"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where pages are."""
    if request.param == "disk":
        monkeypatch.delattr(os, "memfd_create")
    return str(request.param)


def test_who_shares_a_page_is_found_and_who_shares_another_one_is_not(kind: str) -> None:
    made, other = Page.create(Entry(1.0)), Page.create(Entry(1.0))
    fork = os.fork()
    if fork == 0:
        other.close()
        while True:
            signal.pause()
    try:
        assert [process.pid for process in sharing(made.name)] == [fork]
        eventually(lambda: list(sharing(other.name)) == [])
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
        made.close()
        other.close()


def test_who_shares_something_else_with_the_number_of_a_page_does_not_share_the_page(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments of shared memory, of databases say, are on the device of pages in memory, with numbers of their own."""
    path = str(Path(f"/proc/self/fd/{page.descriptor}").readlink())
    number = ("00:01", "32770")
    mapped = {"self": [(number, path)]}
    monkeypatch.setattr(started, "_mapped_files", lambda pid: mapped.get(pid, [(number, "/SYSV00000000 (deleted)")]))
    assert list(sharing(page.name)) == []


_FILL = """
mount -t tmpfs -o size=64k none "$0" && cd "$0" || exit
head -c 1000000 /dev/zero > ballast 2> /dev/null
TMPDIR="$0" exec "$@"
"""
_CREATE = """
import os, sys, tempfile, airflow_exclusive.keeper.page as pages
tempfile.tempdir = os.environ["TMPDIR"]  # as if it had been filled since
if sys.argv[1] == "disk": del os.memfd_create
try: print(pages.Page.create(pages.Entry(1.0)).read().confirmed)
except OSError as error: print(error.strerror)
"""


@pytest.fixture
def full_disk(tmp_path: Path) -> tuple[str, ...]:
    """A command that gives the one after it a full disk for its temporary files."""
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        command = (*unshare, "sh", "-c", _FILL, str(tmp_path))
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("nobody here may mount a disk")


@pytest.mark.parametrize(("where", "said"), [("memory", "1.0"), ("disk", "No space left on device")])
def test_a_full_disk_is_no_matter_or_an_error(full_disk: tuple[str, ...], where: str, said: str) -> None:
    """A SIGBUS would end the job with its claim made."""
    made = subprocess.run(
        [*full_disk, sys.executable, "-c", _CREATE, where],
        env={**os.environ, "PYTHONPATH": str(Path(airflow_exclusive.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout.strip()) == (0, said), made.stderr


def test_a_closed_page_stays_closed(page: Page) -> None:
    other = Page.create(Entry(1.0))
    other.close()
    other.close()


def test_a_page_whose_descriptor_the_job_has_closed_is_no_error_and_nobody_elses_file_is_closed() -> None:
    made = Page.create(Entry(1.0))
    os.close(made.descriptor)
    made.close()
    other = Page.create(Entry(1.0))
    with Path(os.devnull).open() as file:
        os.dup2(file.fileno(), other.descriptor)
    assert not other.is_ours
    other.close()
    os.close(other.descriptor)
