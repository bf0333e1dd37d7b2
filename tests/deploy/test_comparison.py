"""How samples of `make compare` become tables and a page."""

from __future__ import annotations

from pathlib import Path

from benchmarks.comparison import report
from benchmarks.comparison.columns import Sample

TWENTY = [Sample("full", "from due to start", "plain", float(n), "s") for n in range(20, 0, -1)]
ONE = Sample("mini", "8 tasks of 5 s", "guarded", 57.25, "s", "it took <long>")


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    assert report.read(tmp_path) == []
    report.write([*TWENTY, ONE], tmp_path, "As measured.")
    assert report.read(tmp_path) == [*TWENTY, ONE]


def test_the_table_has_medians_and_of_many_samples_the_95th_percentile(tmp_path: Path) -> None:
    report.write([*TWENTY, ONE], tmp_path, "As measured.")
    table = (tmp_path / "comparison.md").read_text()
    assert "| case | variant | full | mini |" in table
    assert "| from due to start | plain | 10.5 s (p95 19) |  |" in table
    assert "| 8 tasks of 5 s | guarded |  | 57.2 s |" in table
    assert "- mini, 8 tasks of 5 s, guarded: it took <long>" in table


def test_the_page_has_a_bar_for_each(tmp_path: Path) -> None:
    report.write([*TWENTY, ONE], tmp_path, "As measured.")
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<div class=row>") == 2
    assert "it took &lt;long&gt;" in page
