"""What the embedded CeleryExecutor is made of, and its demonstration, as far as no worker is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from deploy.demo.account import Account, TickAccount, by_month
from deploy.demo.celery.faults import scenario
from deploy.demo.celery.workers import CeleryWorkers
from deploy.demo.ticks import JANUARY, YEAR
from deploy.embedded import EmbeddedValkey
from deploy.embedded.celery import Celery
from include.flights import FLIGHTS, day_before

THREE = Celery("redis://127.0.0.1:1/1", "db+postgresql+psycopg2://nowhere/results", workers=3, concurrency=4)


def test_each_worker_has_a_name_of_its_own() -> None:
    assert list(THREE.components) == ["worker-1", "worker-2", "worker-3"]
    for name, arguments in THREE.components.items():
        assert name in arguments


def test_nobody_answers_where_no_worker_is(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    assert THREE.answers([])
    assert not THREE.answers(["worker-1"]), "there is no broker"
    valkey = EmbeddedValkey(tmp_path / "valkey", durable=False)
    try:
        url = valkey.start().url(1)
        assert not Celery(url, THREE.result_backend, workers=3, concurrency=4).answers(["worker-1"])
    finally:
        valkey.remove()


def test_periods_have_a_tick_for_each_day() -> None:
    assert (len(JANUARY.ticks), len(YEAR.ticks)) == (31, 365)
    assert (JANUARY.ticks[0], YEAR.ticks[-1]) == ("2013-01-02T00:00:00Z", "2014-01-01T00:00:00Z")
    assert YEAR.flights == FLIGHTS


@pytest.fixture
def stage(tmp_path: Path) -> CeleryWorkers:
    made = CeleryWorkers(YEAR, YEAR, tmp_path)
    made.checkpoints.mkdir()
    return made


def begun(stage: CeleryWorkers, tick: str) -> None:
    attempts = [SimpleNamespace(run_key=tick)]
    stage._guard = SimpleNamespace(history=lambda *_, **__: attempts, close=lambda: None)  # type: ignore[assignment]


def test_a_checkpoint_is_set_when_its_turn_comes_ahead_of_those_who_have_begun(stage: CeleryWorkers) -> None:
    faults = scenario(stage)
    for fault in faults:
        fault.prepare()
    (unguarded,) = stage.checkpoints.iterdir()
    assert unguarded.name.startswith("unguarded.")

    planned = faults[0].tick
    begun(stage, YEAR.ticks[0])
    faults[0].take_turn()
    assert faults[0].tick == planned
    assert (stage.checkpoints / f"{planned}.{faults[0].point}").exists()

    begun(stage, YEAR.ticks[300])
    faults[2].take_turn()
    assert faults[2].tick > YEAR.ticks[300]
    begun(stage, YEAR.ticks[-1])
    faults[3].take_turn()
    assert faults[3].tick == YEAR.ticks[-1]


def test_a_month_is_a_line(stage: CeleryWorkers) -> None:
    ticks = [TickAccount(tick, day_before(tick), 10, 10, 10) for tick in YEAR.ticks]
    ticks[0].unguarded = 20
    account = Account(YEAR, ticks, [])
    console = Console(width=120, record=True, quiet=False, file=(stage.folder / "told").open("w"))
    console.print(by_month(account, {YEAR.ticks[0]: "a"}))
    console.file.close()
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[1] == ["2013-01", "31", "310", "310", "320", "1", "0", "·", "·", "·", "a"]
    assert lines[-1][:6] == ["all", "365", "3,650", "3,650", "3,660", "1"]


def test_an_account_tells_what_is_missing() -> None:
    ticks = [TickAccount(tick, day_before(tick), 10, 10) for tick in JANUARY.ticks]
    for one in ticks:
        one.outcomes["success"] = 1
    ticks[3].guarded, ticks[4].outcomes["success"] = 20, 0
    wrong = Account(JANUARY, ticks, []).faults
    assert any("20 flights counted, the source has 10" in fault for fault in wrong)
    assert any("0 successes in the ledger" in fault for fault in wrong)
