"""The memory shared by job and keeper: read whole, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_exclusive.keeper.page import Entry, Page


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


def test_a_closed_page_stays_closed(page: Page) -> None:
    other = Page.create(Entry(1.0))
    other.close()
    other.close()
