"""`make bench`: a figure that misses its limit is an exit status, and stands in the file."""

from __future__ import annotations

import json
import runpy
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import admission, airflow_run, imports, takeover
from benchmarks.figures import Figure
from deploy.embedded import release, stack

GOOD = Figure("admission", 2.0, 2.0, "ms", "of 2000")
MISSED = Figure("takeover", 46.0, 45.0, "s", "of 5")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run it on no servers, with the figures that are given; exit status and what was saved."""
    airflow = SimpleNamespace(environment={}, stop=lambda: None)
    servers = SimpleNamespace(
        airflow=airflow, redis_url="", status_dsn="", start=lambda: None, remove=lambda: removed.append(True)
    )
    removed: list[bool] = []
    monkeypatch.setattr(release, "PROJECT", tmp_path)
    monkeypatch.setattr(stack, "Stack", lambda *_, **__: servers)

    def run(*measured: Figure) -> tuple[int, list[dict[str, Any]]]:
        for part, figure in zip_longest((airflow_run, imports, admission, takeover), measured):
            monkeypatch.setattr(part, "measure", lambda *_, figure=figure: [figure] if figure else [])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("benchmarks", run_name="__main__")
        assert removed == [True]
        saved = json.loads((tmp_path / ".bench" / "figures.json").read_text())
        assert isinstance(ended.value.code, int)
        return ended.value.code, saved

    return run


def test_one_that_is_missed_is_exit_status_1_and_in_the_file(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, saved = bench(GOOD, MISSED, GOOD)
    assert status == 1
    assert [(figure["name"], figure["ok"]) for figure in saved] == [
        ("admission", True),
        ("takeover", False),
        ("admission", True),
    ]
    assert "MISSED takeover: 46 s (limit 45); of 5" in capsys.readouterr().out.splitlines()


def test_a_figure_at_its_limit_is_good_and_exit_status_0(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(GOOD) == (0, [{**vars(GOOD), "ok": True}])
    assert "MISSED" not in capsys.readouterr().out
