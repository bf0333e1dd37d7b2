"""`make bench`: a figure that misses its limit is an exit status, and stands in the file."""

from __future__ import annotations

import json
import runpy
import threading
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_exclusive.core.errors import StoreUnavailable
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


def test_a_stand_by_that_fails_is_a_figure_that_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Place:
        """The first job's can't be asked, the second's is told that somebody runs, then that it is too late."""

        def __init__(self, **_: str) -> None: ...

        def __enter__(self) -> Place:
            return self

        def __exit__(self, *_: object) -> None: ...

        def peek(self, job: str, **_: str) -> str:
            if job == "first":
                raise StoreUnavailable("gone")
            return "busy"

        def admit(self, job: str, **_: object) -> str:
            asked.append(job)
            return "busy"

    asked: list[str] = []
    killed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(takeover, "JOBS", 2)
    monkeypatch.setattr(takeover, "JobGuard", Place)
    monkeypatch.setattr(takeover, "_start", lambda *_: [SimpleNamespace(job=job) for job in ("first", "second")])
    figure = takeover._replaced("", "", "node", lambda runner: killed.append(runner.job))
    assert "MISSED" in str(figure)
    assert "0 of 2 replaced" in figure.detail
    assert (asked, killed) == (["second"], ["first", "second"])


def test_a_runner_that_ends_instead_of_saying_that_it_has_the_lease_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the runner of 'bench node 0' has no lease"):
        takeover._start("redis://127.0.0.1:1/0", "nonsense", "node", 1)
